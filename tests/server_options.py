"""Options of TGI 3.3.7's launcher, vLLM 0.33.0's and SGLang 0.5.23's servers, as their sources name them."""

from __future__ import annotations

_TGI_VARIABLES = """
MODEL_ID REVISION QUANTIZE DTYPE KV_CACHE_DTYPE NUM_SHARD SHARDED MAX_CONCURRENT_REQUESTS MAX_TOP_N_TOKENS
MAX_BEST_OF MAX_STOP_SEQUENCES MAX_CLIENT_BATCH_SIZE MAX_INPUT_TOKENS MAX_INPUT_LENGTH MAX_TOTAL_TOKENS
MAX_BATCH_PREFILL_TOKENS MAX_BATCH_TOTAL_TOKENS MAX_BATCH_SIZE WAITING_SERVED_RATIO MAX_WAITING_TOKENS
CUDA_GRAPHS ENABLE_PREFILL_LOGPROBS DISABLE_GRAMMAR_SUPPORT CUDA_MEMORY_FRACTION VALIDATION_WORKERS HOSTNAME
PORT PROMETHEUS_PORT API_KEY CORS_ALLOW_ORIGIN PAYLOAD_LIMIT HUGGINGFACE_HUB_CACHE WEIGHTS_CACHE_OVERRIDE
TRUST_REMOTE_CODE LORA_ADAPTERS TOKENIZER_CONFIG_PATH SPECULATE OTLP_ENDPOINT OTLP_SERVICE_NAME JSON_OUTPUT
USAGE_STATS SHARD_UDS_PATH MASTER_ADDR MASTER_PORT GRACEFUL_TERMINATION_TIMEOUT
"""
# A flag --a-b is the variable A_B.
TGI_OPTIONS = {f"--{name.lower().replace('_', '-')}" for name in _TGI_VARIABLES.split()}
# Read from the environment alone.
TGI_VARIABLES = {"PREFIX_CACHING", "PREFILL_CHUNKING", "ATTENTION", "MAX_IMAGE_FETCH_SIZE", "USAGE_STATS"}
VLLM_OPTIONS = {
    "--revision", "--host", "--port", "--dtype", "--quantization", "--tensor-parallel-size",
    "--max-model-len",
    "--gpu-memory-utilization", "--generation-config", "--hf-overrides", "--enable-prefix-caching",
    "--structured-outputs-config",
    "--max-num-queued-reqs", "--max-num-queued-tokens", "--shutdown-timeout", "--limit-mm-per-prompt",
    "--allowed-media-domains", "--mm-processor-kwargs", "--logprobs-mode", "--max-logprobs",
    "--trust-request-mm-kwargs", "--trust-request-chat-template", "--default-chat-template-kwargs",
    "--scheduling-policy", "--api-key", "--allowed-origins", "--allowed-local-media-path",
    "--disable-fastapi-docs", "--served-model-name", "--middleware",
}  # fmt: skip
SGLANG_OPTIONS = {
    "--model-path", "--revision", "--host", "--port", "--tp-size", "--context-length", "--dtype",
    "--quantization", "--enable-fp32-lm-head", "--enable-deterministic-inference", "--max-queued-requests",
    "--enable-metrics", "--mem-fraction-static",
}  # fmt: skip
VLLM_VARIABLES = {"VLLM_NO_USAGE_STATS", "VLLM_CACHE_ROOT"}

"""vLLM's engine on prompts that are token ids already, asked as it answers fastest; started by `scoring.py`.

    PYTHON benchmarks/vllm_ids.py MODEL PROMPTS.jsonl

Runs with the Python of an environment that has vLLM. It reads the logarithms of exactly the labels, loads no
tokenizer, keeps no prefixes (no two prompts begin alike) and takes many prompts at a time. Prints prompts a
second of each of three passes, after one over a part.
"""

from __future__ import annotations

import json
import os
import sys
import time

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
WARM, PASSES = 256, 3


def main() -> None:
    from vllm import LLM, SamplingParams

    model, source = sys.argv[1:3]
    with open(source, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    llm = LLM(
        model,
        dtype="bfloat16",
        enable_prefix_caching=False,
        skip_tokenizer_init=True,
        max_num_batched_tokens=16_384,
        max_num_seqs=1_024,
        max_model_len=max(len(row["ids"]) for row in rows) + 8,
        gpu_memory_utilization=0.8,  # the caller has some of it
        disable_log_stats=True,
    )
    prompts = [{"prompt_token_ids": row["ids"]} for row in rows]
    asked = [
        SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, logprob_token_ids=row["label_ids"])
        for row in rows
    ]
    llm.generate(prompts[:WARM], asked[:WARM], use_tqdm=False)
    rates = []
    for _ in range(PASSES):
        began = time.perf_counter()
        llm.generate(prompts, asked, use_tqdm=False)
        rates.append(len(rows) / (time.perf_counter() - began))
    print(json.dumps({"rates": rates}))


if __name__ == "__main__":
    main()

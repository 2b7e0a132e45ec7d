"""A loopback server that writes the letter it is asked to, and tells its metrics under the engines' names."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.loopback import TOKENIZER, Loopback

_ASKED = re.compile(r"Write the letter ([A-Z])")

TGI_METRICS = """\
# TYPE tgi_queue_size gauge
tgi_queue_size 0
# TYPE tgi_batch_current_size gauge
tgi_batch_current_size 1
# TYPE tgi_batch_current_max_tokens gauge
tgi_batch_current_max_tokens 812
# TYPE tgi_request_count counter
tgi_request_count {n}
# TYPE tgi_request_success counter
tgi_request_success {n}
# TYPE tgi_request_failure counter
tgi_request_failure{{err="overloaded"}} {n}
# TYPE tgi_request_duration histogram
tgi_request_duration_bucket{{le="+Inf"}} {n}
tgi_request_duration_sum {n}
tgi_request_duration_count {n}
# TYPE tgi_request_input_length histogram
tgi_request_input_length_bucket{{le="+Inf"}} {n}
tgi_request_input_length_sum {n}
tgi_request_input_length_count {n}
# TYPE tgi_request_generated_tokens histogram
tgi_request_generated_tokens_bucket{{le="+Inf"}} {n}
tgi_request_generated_tokens_sum {n}
tgi_request_generated_tokens_count {n}
"""

_VLLM_LABELS = 'engine="0",model_name="tiny"'
VLLM_METRICS = f"""\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{{{{_VLLM_LABELS}}}}} 1.0
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{{{{{_VLLM_LABELS}}}}} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{{{{{_VLLM_LABELS}}}}} 0.25
# TYPE vllm:prefix_cache_queries_total counter
vllm:prefix_cache_queries_total{{{{{_VLLM_LABELS}}}}} {{n}}
# TYPE vllm:prefix_cache_hits_total counter
vllm:prefix_cache_hits_total{{{{{_VLLM_LABELS}}}}} {{n}}
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{{{{{_VLLM_LABELS}}}}} {{n}}
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{{{{{_VLLM_LABELS}}}}} {{n}}
# TYPE vllm:request_success_total counter
vllm:request_success_total{{{{{_VLLM_LABELS},finished_reason="length"}}}} {{n}}
# TYPE vllm:admission_rejections_total counter
vllm:admission_rejections_total{{{{{_VLLM_LABELS},reason="requests"}}}} {{n}}
# TYPE vllm:e2e_request_latency_seconds histogram
vllm:e2e_request_latency_seconds_bucket{{{{{_VLLM_LABELS},le="+Inf"}}}} {{n}}
vllm:e2e_request_latency_seconds_sum{{{{{_VLLM_LABELS}}}}} {{n}}
vllm:e2e_request_latency_seconds_count{{{{{_VLLM_LABELS}}}}} {{n}}
"""

_SGLANG_LABELS = 'engine_type="unified",model_name="tiny",tp_rank="0"'
SGLANG_METRICS = f"""\
# TYPE sglang:num_running_reqs gauge
sglang:num_running_reqs{{{{{_SGLANG_LABELS}}}}} 1.0
# TYPE sglang:num_queue_reqs gauge
sglang:num_queue_reqs{{{{{_SGLANG_LABELS}}}}} 0.0
# TYPE sglang:token_usage gauge
sglang:token_usage{{{{{_SGLANG_LABELS}}}}} 0.25
# TYPE sglang:prompt_tokens_total counter
sglang:prompt_tokens_total{{{{{_SGLANG_LABELS}}}}} {{n}}
# TYPE sglang:generation_tokens_total counter
sglang:generation_tokens_total{{{{{_SGLANG_LABELS}}}}} {{n}}
# TYPE sglang:cached_tokens_total counter
sglang:cached_tokens_total{{{{{_SGLANG_LABELS}}}}} {{n}}
# TYPE sglang:num_requests_total counter
sglang:num_requests_total{{{{{_SGLANG_LABELS}}}}} {{n}}
# TYPE sglang:num_aborted_requests_total counter
sglang:num_aborted_requests_total{{{{{_SGLANG_LABELS}}}}} {{n}}
# TYPE sglang:e2e_request_latency_seconds histogram
sglang:e2e_request_latency_seconds_bucket{{{{{_SGLANG_LABELS},le="+Inf"}}}} {{n}}
sglang:e2e_request_latency_seconds_sum{{{{{_SGLANG_LABELS}}}}} {{n}}
sglang:e2e_request_latency_seconds_count{{{{{_SGLANG_LABELS}}}}} {{n}}
"""
METRICS = {"tgi": TGI_METRICS, "vllm": VLLM_METRICS, "sglang": SGLANG_METRICS}


@dataclass
class ProbeServer(Loopback):
    """`contrary` writes another letter than it is asked to; each scrape finds counters ten higher."""

    contrary: bool = False
    date: str | None = None
    scrapes: int = 0

    async def _reply(
        self, writer: asyncio.StreamWriter, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> None:
        if method == "GET" and path in ("/metrics", "/health"):
            self.scrapes += 1
            text = METRICS[self.dialect].format(n=10 * self.scrapes)
            sent = text.encode() if path == "/metrics" else b""
            date = f"Date: {self.date}\r\n" if self.date else ""
            kind = "Content-Type: text/plain; version=0.0.4\r\n"
            head = f"HTTP/1.1 200 OK\r\n{kind}{date}Content-Length: {len(sent)}\r\n\r\n"
            writer.write(head.encode() + sent)
            await writer.drain()
            return
        await super()._reply(writer, method, path, headers, body)

    def _completions(self, asked: dict[str, Any], id: str) -> dict[str, Any]:
        reply = super()._completions(asked, id)
        given = asked["prompt"] if not isinstance(asked["prompt"], str) else []
        for choice, ids in zip(reply["choices"], given, strict=False):
            (top,) = choice["logprobs"]["top_logprobs"]
            wanted = self._wanted(TOKENIZER.decode(list(ids)))
            if wanted is not None:
                top.update({name: -0.01 if name == f"token_id:{wanted}" else -9.0 for name in top})
        return reply

    def _generate(self, inputs: str, asked: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
        headers, reply = super()._generate(inputs, asked)
        wanted = self._wanted(inputs)
        for token in reply["details"].get("top_tokens", [[]])[0] if wanted is not None else ():
            token["logprob"] = -0.01 if token["id"] == wanted else -9.0
        return headers, reply

    def _logprobs(self, ids: Sequence[int], seen: bytes, labels: Sequence[int]) -> list[float]:
        wanted = self._wanted(TOKENIZER.decode(list(ids)))
        if wanted is None:
            return super()._logprobs(ids, seen, labels)
        return [-0.01 if label == wanted else -9.0 for label in labels]

    def _wanted(self, text: str) -> int | None:
        found = _ASKED.search(text)
        if found is None:
            return None
        letter = "A" if self.contrary else found[1]
        return TOKENIZER.encode(letter)[-1]

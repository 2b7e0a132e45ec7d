"""What a team writes when it has vLLM and an afternoon: prompts in, label probabilities out.

    PYTHON benchmarks/vllm_offline.py MODEL PROMPTS.jsonl OUT.jsonl

Runs with the Python of an environment that has vLLM. Prints the seconds that loading and answering took.
"""

from __future__ import annotations

import json
import math
import sys
import time


def main() -> None:
    from vllm import LLM, SamplingParams

    model, source, out = sys.argv[1:4]
    began = time.perf_counter()
    llm = LLM(model, dtype="bfloat16", max_logprobs=100, enable_prefix_caching=False)
    loaded = time.perf_counter()
    with open(source, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    first = {"max_tokens": 1, "temperature": 0.0}
    ask = [
        SamplingParams(**first, logprobs=len(row["label_ids"]), allowed_token_ids=row["label_ids"])
        for row in rows
    ]
    answers = llm.generate([row["prompt"] for row in rows], ask)
    with open(out, "w", encoding="utf-8") as file:
        for row, answer in zip(rows, answers, strict=True):
            seen = answer.outputs[0].logprobs[0]
            values = [seen[label].logprob if label in seen else None for label in row["label_ids"]]
            whole = sum(math.exp(value) for value in values if value is not None)
            file.write(json.dumps({"id": row["id"], "mass": whole, "logprobs": values}) + "\n")
    print(json.dumps({"loading_s": loaded - began, "answering_s": time.perf_counter() - loaded}))


if __name__ == "__main__":
    main()

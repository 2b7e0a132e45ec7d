"""Rankings inside a pipeline of one's own in Ray Data: read, rank, write Parquet.

    pip install 'fastqwen[ray,torch]'
    python examples/ray_pipeline.py OUT

It ranks the example catalogue's sessions by the tiny checkpoint, on this machine. With servers, give their
URLs in place of torch: `engine="vllm", endpoint=["http://gpu1:8000", "http://gpu2:8000"]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq

from tgi_stack.ray import Rerank  # before Ray, whose telemetry it turns off

import ray  # isort: skip
import ray.data  # isort: skip

CATALOGUE = Path(__file__).resolve().parent / "catalogue"


def main() -> None:
    out = sys.argv[1]
    ray.init(include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    sessions = ray.data.read_json(str(CATALOGUE / "sessions.jsonl"))
    ranked = sessions.repartition(target_num_rows_per_block=20).map_batches(
        Rerank,
        fn_constructor_kwargs={
            "items": str(CATALOGUE / "items.jsonl"),
            "engine": "torch",
            "model": "tiny",
            "base": str(CATALOGUE),
        },
        batch_size=20,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=0,  # what reads and repartitions needs a core, and there may be one alone
    )
    ranked.write_parquet(out)
    statuses = pq.read_table(out, columns=["status"]).column("status").to_pylist()
    print(f"{len(statuses)} rankings, {statuses.count('ok')} ok")


if __name__ == "__main__":
    main()

"""fastqwen inside Ray Data: `Summarize`, `Rerank` and `Probs` for `ds.map_batches(...)`, and `--runner ray`.

Nothing else of fastqwen imports this package or Ray: the command loads it by its name when it is asked for.
"""

import os

# Before anything of Ray is imported: no telemetry, whatever the user's own configuration of Ray says.
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

from tgi_stack.ray.batches import Probs, Rerank, Summarize

__all__ = ["Probs", "Rerank", "Summarize"]

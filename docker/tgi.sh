#!/bin/sh
# Starts TGI's launcher with its share of the GPU.
#
# TGI has no size of its own: with CUDA_MEMORY_FRACTION=f it takes what is free but for (1 - f) of the whole. What
# f has to be for a share of so many MiB depends on what others hold at this moment, so it is reckoned here, at
# every start: (used + share) / total, the largest over its GPUs. A restart beside a running neighbour then gets
# the same share as the first start.
set -eu

share=${FASTQWEN_MEMORY_MIB:-}
largest=0
if [ -n "$share" ]; then
    readings=$(nvidia-smi --query-gpu=memory.total,memory.free --format=csv,noheader,nounits)
    while read -r total free; do
        total=${total%,}
        case "$total$free" in
        *[!0-9]*) continue ;; # a MIG instance, which nvidia-smi does not measure: it is the server's own
        esac
        thousandths=$(((total - free + share) * 1000 / total))
        [ "$thousandths" -le "$largest" ] || largest=$thousandths
    done <<READINGS
$readings
READINGS
fi
if [ "$largest" -gt 0 ] && [ "$largest" -lt 1000 ]; then
    CUDA_MEMORY_FRACTION=$(printf '0.%03d' "$largest")
    export CUDA_MEMORY_FRACTION
fi
echo "fastqwen: CUDA_MEMORY_FRACTION=${CUDA_MEMORY_FRACTION:-1.0} for ${share:-all free} MiB"
ldconfig 2>/dev/null || true
exec text-generation-launcher "$@"

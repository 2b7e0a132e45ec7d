#!/bin/sh
# Starts TGI's launcher with exactly its share of the GPU.
#
# TGI has no size of its own: with CUDA_MEMORY_FRACTION=f it takes what is free but for (1 - f) of the whole. What
# f has to be for a share of so many MiB depends on what others hold at this moment, so it is reckoned here, at
# every start: (used + share) / total, the smallest over its GPUs. A restart beside a running neighbour then gets
# the same share as the first start.
set -eu

share=${FASTQWEN_MEMORY_MIB:-}
if [ -n "$share" ]; then
    least=1000
    readings=$(nvidia-smi --query-gpu=memory.total,memory.free --format=csv,noheader,nounits | tr -d ' ')
    for reading in $readings; do
        total=${reading%,*} free=${reading#*,}
        case "$total$free" in
        *[!0-9]*) continue ;; # a MIG instance, which nvidia-smi does not measure: it is the server's own
        esac
        thousandths=$(((total - free + share) * 1000 / total))
        [ "$thousandths" -ge "$least" ] || least=$thousandths
    done
    if [ "$least" -lt 1000 ]; then
        CUDA_MEMORY_FRACTION=$(printf '0.%03d' "$least")
        export CUDA_MEMORY_FRACTION
    fi
fi
echo "fastqwen: CUDA_MEMORY_FRACTION=${CUDA_MEMORY_FRACTION:-1.0} for ${share:-all free} MiB"
ldconfig 2>/dev/null || true
exec text-generation-launcher "$@"

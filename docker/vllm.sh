#!/bin/sh
# Starts vLLM with exactly its share of the GPU: --gpu-memory-utilization is its own memory by the whole, so it
# depends on the GPU alone, and is reckoned here as tgi.sh does it for TGI.
set -eu

share=${FASTQWEN_MEMORY_MIB:-}
fraction=0.9
if [ -n "$share" ]; then
    totals=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | tr -d ' ')
    largest=$share
    for total in $totals; do
        case "$total" in
        *[!0-9]*) continue ;;
        esac
        [ "$total" -le "$largest" ] || largest=$total
    done
    [ "$largest" -eq "$share" ] || fraction=$(printf '0.%03d' $((share * 1000 / largest)))
fi
echo "fastqwen: --gpu-memory-utilization $fraction for ${share:-the usual share of} MiB"
exec vllm serve "$@" --gpu-memory-utilization "$fraction"

#!/bin/sh
# Starts vLLM with its share of the GPU: --gpu-memory-utilization is its own memory by the whole, so it depends on
# the GPU alone, and is reckoned here as tgi.sh does it for TGI.
set -eu

share=${FASTQWEN_MEMORY_MIB:-}
fraction=0.9
largest=0
if [ -n "$share" ]; then
    readings=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits)
    for total in $readings; do
        case "$total" in
        *[!0-9]*) continue ;;
        esac
        [ "$total" -le "$largest" ] || largest=$total
    done
fi
[ "$largest" -le "${share:-0}" ] || fraction=$(printf '0.%03d' $((share * 1000 / largest)))
echo "fastqwen: --gpu-memory-utilization $fraction for ${share:-the usual share of} MiB"
# An answer's head tells its tokens, as TGI's does: the gateway counts by it, and sees no body.
export PYTHONPATH="/opt/fastqwen${PYTHONPATH:+:$PYTHONPATH}"
exec vllm serve "$@" --gpu-memory-utilization "$fraction" --middleware token_headers.TokenHeaders

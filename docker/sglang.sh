#!/bin/sh
# Starts SGLang with its share of the GPU: --mem-fraction-static is the part of what is free at its start that weights,
# keys and values may take, so it depends on what others hold by then, and is reckoned here as tgi.sh does it for TGI.
set -eu

share=${FASTQWEN_MEMORY_MIB:-}
fraction=0.85
least=0
if [ -n "$share" ]; then
    readings=$(nvidia-smi --query-gpu=memory.free --format=csv,noheader,nounits)
    for free in $readings; do
        case "$free" in
        *[!0-9]*) continue ;;
        esac
        [ "$least" -ne 0 ] && [ "$free" -ge "$least" ] || least=$free
    done
fi
# Activations and graphs are beside the static part.
static=$((${share:-0} * 85 / 100))
[ "$least" -le "$static" ] || [ -z "$share" ] || fraction=$(printf '0.%03d' $((static * 1000 / least)))
echo "fastqwen: --mem-fraction-static $fraction for ${share:-the usual share of} MiB"
exec python3 -m sglang.launch_server "$@" --mem-fraction-static "$fraction"

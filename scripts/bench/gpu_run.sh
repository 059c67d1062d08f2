#!/usr/bin/env bash
# The benchmarks of an NVIDIA GPU on a bare machine without a network.
#
#   OUT=DIR scripts/bench/gpu_run.sh WHEELS TOKENIZER [PART...]
#
# WHEELS holds the wheels of what LMX depends on, mlx-cuda-13 and its libraries among them and not
# mlx-cpu; `none` takes the environment as it is. TOKENIZER is a model directory whose tokenizer the
# models with random weights get; its weights are not needed. Parts, all of them unless some are
# named: serving-1b serving-8b serving-8b-4bit fairness prefix agent. Each has a time limit, and what
# is there when it ends stays. $OUT gets tables.md, log.txt and results.tgz with the JSON for plots.
#
# SHAPES="tiny tiny" in place of "1b 8b", with fewer CHUNKS, TOKENS and REPEATS, tries it out without
# a GPU.
set -uo pipefail

if [ $# -lt 2 ]; then
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 64
fi
wheels="$1" tokenizer="$2"
shift 2
parts="${*:-serving-1b serving-8b serving-8b-4bit fairness prefix agent}"
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)"
out="${OUT:-$root/bench-results/gpu}"
place="${PLACE:-/tmp/lmx-gpu}"
python="${PYTHON:-python3}"
read -r small_shape large_shape <<<"${SHAPES:-1b 8b}"
chunk_tokens="${CHUNK_TOKENS:-2048}" chunks="${CHUNKS:-64}"
# Room for the long prompt and a stream beside it; the larger model, whose cache is larger, needs less.
stream_tokens=20000
small_context=$((chunk_tokens * chunks + 2 * stream_tokens)) large_context=32768
mkdir -p "$out" "$place/json"

say() {
    printf '%s\n' "$*" | tee -a "$out/log.txt" >&2
}

# Packages go to a folder of their own, and LMX is run from its checkout.
install_wheels() {
    local site="$place/site"
    if [ ! -e "$site/.complete" ]; then
        if compgen -G "$wheels/mlx_cpu-*.whl" >/dev/null; then
            say "$wheels holds mlx-cpu, whose libmlx.so takes the place of CUDA's"
            return 1
        fi
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
            --upgrade --target "$site" "$wheels"/*.whl >>"$out/log.txt" 2>&1 || return 1
        touch "$site/.complete"
    fi
    export PYTHONPATH="$site:$root"
    # CUDA's libraries may be among the wheels or where this Python has them.
    local folders
    folders="$("$python" - <<'PYTHON_SOURCE'
import pathlib, sys
found = [str(path) for entry in sys.path if entry for path in pathlib.Path(entry).glob("nvidia/*/lib")]
print(":".join(found))
PYTHON_SOURCE
)"
    export LD_LIBRARY_PATH="$folders${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
}

# make_model NAME SHAPE CONTEXT [OPTION...]: once per machine.
make_model() {
    local target="$place/$1" shape="$2" context="$3" started=$SECONDS
    shift 3
    if [ -e "$target/tokenizer.json" ]; then
        return
    fi
    "$python" -m scripts.bench.random_model "$tokenizer" "$target" --shape "$shape" \
        --context "$context" "$@" >>"$out/log.txt" 2>&1 || return 1
    say "$(basename "$target"): made in $((SECONDS - started)) s"
}

# bench SECONDS TITLE SCRIPT [OPTION...]: its table, or that there is none. An interrupt, unlike
# SIGTERM, lets it end the servers that it started.
bench() {
    local limit="$1" title="$2" script="$3" started=$SECONDS
    shift 3
    printf '\n## %s\n\n' "$title" >>"$out/tables.md"
    if ! timeout --foreground --signal=INT --kill-after=60 "$limit" "$python" "scripts/$script" "$@" \
        --json "$place/json/$title.json" >>"$out/tables.md" 2>>"$out/log.txt"; then
        printf 'Not finished within %d s; see log.txt.\n' "$limit" >>"$out/tables.md"
        say "$title: FAILED"
    fi
    tar -czf "$out/results.tgz" -C "$place" json
    say "$title: $((SECONDS - started)) s"
}

serve() { # title, model
    bench 300 "$1" bench_serving.py --home "$place/home" --model "$place/$2" --only model \
        --streams 1 8 32 --warm-ups "${WARM_UPS:-4}" --tokens "${TOKENS:-256}" --repeats "${REPEATS:-3}"
}

run_part() {
    case "$1" in
    serving-1b)
        make_model small "$small_shape" "$small_context" && serve "$1" small
        ;;
    serving-8b)
        make_model large "$large_shape" "$large_context" && serve "$1" large
        ;;
    serving-8b-4bit)
        make_model large-4bit "$large_shape" "$large_context" --bits 4 && serve "$1" large-4bit
        ;;
    fairness)
        make_model small "$small_shape" "$small_context" && bench 200 "$1" bench_fairness.py \
            --model "$place/small" --chunk-tokens "$chunk_tokens" --chunks "$chunks" \
            --stream-tokens "$stream_tokens"
        ;;
    prefix)
        make_model large "$large_shape" "$large_context" && bench 240 "$1" bench_prefix.py \
            --model "$place/large" --sizes 1024 4096 8192 --choice-tokens 4096
        ;;
    agent)
        make_model large "$large_shape" "$large_context" && bench 120 "$1" bench_agent.py --model "$place/large"
        ;;
    *)
        say "there is no part $1"
        return 1
        ;;
    esac
}

cd "$root" || exit 1
export PYTHONPATH="$root" PYTHONUNBUFFERED=1 HF_HUB_OFFLINE=1
if [ "$wheels" != none ] && ! install_wheels; then
    say "the wheels could not be installed"
    exit 1
fi
"$python" -c 'import mlx.core as mx; print(mx.default_device(), mx.device_info())' 2>&1 |
    tee -a "$out/log.txt" >&2
failed=0
for part in $parts; do
    run_part "$part" || failed=1
done
say "$SECONDS s in all"
exit "$failed"

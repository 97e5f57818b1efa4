#!/usr/bin/env bash
# Evaluate published checkpoints and their base, without training: win rate with image gain, cross-play, benchmarks.
#
#   bash run_scripts/evaluate_published.sh BASE CHECKPOINT... [any option of win-rate and cross-play, as --civilians 3]
#   DRY_RUN=1 bash run_scripts/evaluate_published.sh BASE CHECKPOINT...     # check, print the commands and stop
#   BENCHMARKS=no-judge bash run_scripts/evaluate_published.sh BASE CHECKPOINT...   # once before: setup_vlmevalkit.sh
#
# BASE and CHECKPOINT: folders as on the Hub, exports or checkpoints; the base is the frozen model and the spy of
# cross-play, which needs two checkpoints. Two models are in memory at a time. Images and rules are those of the options:
# --drawn 500 for scenes, or --images a source, with the rules that the checkpoints were trained for. The same command
# goes on after a stop: a result that its file already has, of the same settings, is not made again. OUT gets
# win_rate.jsonl, cross_play.jsonl, benchmarks/ and a log of each. Not yet run on published checkpoints.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

OUT="${OUT:-runs/published}"            # results and logs
GAMES="${GAMES:-1000}"                  # of the win rate, half with each model as the spy
CROSS_GAMES="${CROSS_GAMES:-500}"       # of every pair of civilians and voters
BENCHMARKS="${BENCHMARKS:-}"            # as of eval_vlmevalkit.sh, whose other variables count too; empty: none
USE_CPU="${USE_CPU:-0}"                 # 1: do not use a GPU
DRY_RUN="${DRY_RUN:-0}"                 # 1: check, print the commands and stop

models=()
while [ $# -gt 0 ] && [[ "$1" != --* ]]; do models+=("$1") && shift; done
case " $* " in
    *" --out"[\ =]* | *" --reference"[\ =]* | *" --games"[\ =]*)
        die "--out, --reference and --games are set here: choose OUT, the base, GAMES and CROSS_GAMES" ;;
esac
[ "${#models[@]}" -ge 2 ] || die "name the base and one checkpoint or more, before any option"
switch USE_CPU
check_numbers GAMES CROSS_GAMES
for model in "${models[@]}"; do
    check_model "a model" "$model"
    [[ "$model" != *" "* ]] || [ -z "$BENCHMARKS" ] || die "$model has a space in its name: link it to another place"
done
twice="$(realpath -m -- "${models[@]}" | sort | uniq -d | head -n 1)"
[ -z "$twice" ] || die "$twice is named twice: give the base and each checkpoint once"
base="${models[0]}"
checkpoints=("${models[@]:1}")
images=(--drawn 500)
case " $* " in *" --images"[\ =]* | *" --drawn"[\ =]*) images=() ;; esac
options=(--reference "$base" "${images[@]}" "$@")
if [ "$USE_CPU" = 1 ]; then options+=(--use_cpu true); fi

step() { # FILE COMMAND...: printed in a dry run; else run, with a log, unless OUT/FILE.jsonl has its result
    command=(python -m vision_zero.evaluate "${@:2}" "${options[@]}" --out "$OUT/$1.jsonl")
    if [ "$DRY_RUN" = 1 ]; then
        check_options
        printf '%q ' "${command[@]}"
        printf '\n'
    elif python "$root/run_scripts/has_result.py" "${command[@]:3}"; then
        echo "$script: $OUT/$1.jsonl has it already: ${*:2}"
    else
        "${command[@]}" 2>&1 | tee -a "$OUT/$1.log"
    fi
}

activate
if [ "$DRY_RUN" = 0 ]; then mkdir -p "$OUT"; fi
for checkpoint in "${checkpoints[@]}"; do step win_rate win-rate "$checkpoint" --games "$GAMES"; done
if [ "${#checkpoints[@]}" -ge 2 ]; then step cross_play cross-play "${checkpoints[@]}" --games "$CROSS_GAMES"; fi
if [ -n "$BENCHMARKS" ]; then
    export MODEL="${checkpoints[*]}" BASE="$base" BENCHMARKS USE_CPU DRY_RUN
    command=(env OUT="$OUT/benchmarks" bash "$root/run_scripts/eval_vlmevalkit.sh")
    if [ "$DRY_RUN" = 1 ]; then "${command[@]}"; else "${command[@]}" 2>&1 | tee -a "$OUT/benchmarks.log"; fi
fi

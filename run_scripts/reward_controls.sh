#!/usr/bin/env bash
# Train a run and its three controls, whose rewards carry no meaning, then score all four on benchmarks beside their base.
#
#   IMAGES_DIR=my/images bash run_scripts/reward_controls.sh [any option of python -m vision_zero.train]
#   IMAGES_DIR=my/images DRY_RUN=1 bash run_scripts/reward_controls.sh      # check, print the commands and stop
#
# Each run is run_grpo_vision_zero.sh, whose variables count here too but for RUN_NAME and RESUME, in
# OUTPUT_BASE_DIR/NAME-none, NAME-shuffled, NAME-constant and NAME-random; what a control does: docs/method.md. The same
# command goes on after a stop: runs that are there are continued, and benchmarks that are scored are not scored again.
# Once before: bash run_scripts/setup_vlmevalkit.sh. Not yet run: four times the cost of a run.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

NAME="${NAME:-controls}"                                # runs are NAME-none, NAME-shuffled, ...
MODEL="${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}"           # where all four start, and the base of the benchmarks [paper]
OUTPUT_BASE_DIR="${OUTPUT_BASE_DIR:-$root/runs}"        # their folder
CONTROLS="${CONTROLS:-none shuffled constant random}"   # none: the run itself
BENCHMARKS="${BENCHMARKS:-no-judge}"                    # as of eval_vlmevalkit.sh, whose other variables count too; none: no scores
DRY_RUN="${DRY_RUN:-0}"                                 # 1: check, print the commands and stop

case " $* " in
    *" --reward_control"* | *" --reward-control"* | *" --output_dir"* | *" --output-dir"*)
        die "--reward_control and --output_dir are set here: choose CONTROLS, NAME and OUTPUT_BASE_DIR" ;;
esac
read -ra controls <<<"$CONTROLS"
[ -z "$(printf '%s\n' "${controls[@]}" | sort | uniq -d)" ] || die "CONTROLS has one of them twice: $CONTROLS"
for control in "${controls[@]}"; do
    case "$control" in
        none | shuffled | constant | random) ;;
        *) die "CONTROLS: $control is none of none, shuffled, constant, random" ;;
    esac
done
if [ "$BENCHMARKS" != none ] && [ "$DRY_RUN" = 0 ] && [ "${TOOL:-vlmevalkit}" = vlmevalkit ]; then
    [ -x "$root/.venv-vlmevalkit/bin/python" ] || die "nothing to score with yet: bash run_scripts/setup_vlmevalkit.sh"
fi

runs=()
for control in "${controls[@]}"; do
    run="$OUTPUT_BASE_DIR/$NAME-$control"
    runs+=("$run")
    RESUME=0
    if [ -f "$run/config.yaml" ]; then RESUME=1; fi # one that is done is continued without a step
    arguments=("$@")
    if [ "$control" != none ]; then arguments+=(--reward_control "$control"); fi
    export MODEL OUTPUT_BASE_DIR DRY_RUN RESUME RUN_NAME="$NAME-$control"
    bash "$root/run_scripts/run_grpo_vision_zero.sh" "${arguments[@]}"
done
if [ "$BENCHMARKS" = none ]; then exit; fi
command=(bash "$root/run_scripts/eval_vlmevalkit.sh")
variables=(MODEL="${runs[*]}" BASE="$MODEL" BENCHMARKS="$BENCHMARKS" OUT="$OUTPUT_BASE_DIR/$NAME-benchmarks")
stop_if_dry
exec env "${variables[@]}" "${command[@]}"

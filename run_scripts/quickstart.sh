#!/usr/bin/env bash
# Install what is missing, then train the tiny model in data/tiny_vlm by self-play for a few minutes on the CPU.
#
#   bash run_scripts/quickstart.sh [any option of python -m vision_zero.train, e.g. --iterations 60]
#   bash run_scripts/quickstart.sh --resume      # continue a run that was stopped
#   DRY_RUN=1 bash run_scripts/quickstart.sh     # print the command only
#
# Options are in configs/quickstart.yaml. A run that is there already is never overwritten.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
cd "$root"

RUN_DIR="${RUN_DIR:-runs/quickstart}"   # where the run goes
THREADS="${THREADS:-1}"                 # of torch; with 2, an iteration took 7 to 18 s on 2 shared cores instead of 2 to 4
DRY_RUN="${DRY_RUN:-0}"                 # 1: print the command and stop

resume=0
for argument in "$@"; do
    if [[ "$argument" == --resume* ]]; then resume=1; fi
done
if [ "$resume" = 0 ] && holds_a_run "$RUN_DIR"; then
    echo "quickstart.sh: error: $RUN_DIR holds a run already, and it stays as it is." >&2
    echo "  continue it:       bash run_scripts/quickstart.sh --resume" >&2
    echo "  look at it:        python -m vision_zero.report $RUN_DIR --summary" >&2
    echo "  start another one: RUN_DIR=runs/another bash run_scripts/quickstart.sh" >&2
    exit 1
fi
if [ "$resume" = 1 ] && [ ! -d "$RUN_DIR" ]; then
    echo "quickstart.sh: error: there is no run $RUN_DIR to resume; start it without --resume" >&2
    exit 1
fi

command=(python -m vision_zero.train --output_dir "$RUN_DIR" "$@")
if [ "$resume" = 0 ]; then command+=(--config configs/quickstart.yaml); fi # a run that is resumed has its own options
if [ "$DRY_RUN" = 1 ]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi

bash setup.sh
activate=""
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    activate="source .venv/bin/activate"
    # shellcheck source=/dev/null
    source .venv/bin/activate
fi

export OMP_NUM_THREADS="$THREADS"
export HF_HUB_OFFLINE=1             # everything it needs is in the repository
export TRL_EXPERIMENTAL_SILENCE=1   # rollout_func is marked experimental; TRL is pinned
export TOKENIZERS_PARALLELISM=false
echo "quickstart.sh: training data/tiny_vlm in $RUN_DIR (options: $([ "$resume" = 1 ] && echo "$RUN_DIR/config.yaml" || echo configs/quickstart.yaml))"
run "${command[@]}"

echo
python -m vision_zero.report "$RUN_DIR" --summary
printf '\n=== a page to look at\n'
python -m vision_zero.report "$RUN_DIR"
if [ -n "$activate" ]; then printf '\nbefore any of these commands: %s\n' "$activate"; fi

#!/usr/bin/env bash
# Install what is missing, then train the tiny model in data/tiny_vlm by self-play for three minutes on the CPU.
#
#   bash run_scripts/quickstart.sh [any option of python -m vision_zero.train, e.g. --iterations 60]
#   bash run_scripts/quickstart.sh --resume      # continue a run that was stopped
#   DRY_RUN=1 bash run_scripts/quickstart.sh     # check, print the command only
#
# Options are in configs/quickstart.yaml. A run that is there already is never overwritten.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
cd "$root"

RUN_DIR="${RUN_DIR:-runs/quickstart}"   # where the run goes
THREADS="${THREADS:-1}"                 # of torch; with 2, an iteration took 7 to 18 s on 2 shared cores instead of 2 to 4
RESUME="${RESUME:-0}"                   # 1: as --resume
DRY_RUN="${DRY_RUN:-0}"                 # 1: check, print the command and stop

asks_to_resume "$@"
again="bash run_scripts/quickstart.sh"
check_run_folder "$RUN_DIR" "RUN_DIR=$RUN_DIR $again --resume" "RUN_DIR=runs/another $again"

command=(python -m vision_zero.train --output_dir "$RUN_DIR" "$@")
options="$RUN_DIR/config.yaml" # of a run that is resumed
if [ "$RESUME" = 0 ]; then
    options=configs/quickstart.yaml
    command+=(--config "$options")
elif [[ " $* " != *" --resume"* ]]; then
    command+=(--resume)
fi
check_options
stop_if_dry

bash setup.sh
activate
run_on_this_cpu
echo "quickstart.sh: training data/tiny_vlm in $RUN_DIR (options: $options)"
run "${command[@]}"

printf '\nquickstart.sh: a win rate of 0.50 is chance: the start model against itself. 200 games tell it to 0.07 to each side;\n'
printf 'docs/results.md has the same run with other seeds. bash run_scripts/toy_selfplay.sh plays on (12 CPU minutes).\n\n'
python -m vision_zero.report "$RUN_DIR" --summary
printf '\n=== a page to look at\n'
python -m vision_zero.report "$RUN_DIR"
if [ "$activated" = 1 ]; then printf '\nbefore any of these commands: source .venv/bin/activate\n'; fi

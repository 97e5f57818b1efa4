#!/usr/bin/env bash
# Does self-play make the tiny model stronger? A full Iterative-SPO run from data/tiny_vlm on drawn scenes, on the CPU,
# with its win rate against the frozen start on the way, cross-play at the end, a summary and a picture.
#
#   bash run_scripts/toy_selfplay.sh [any option of python -m vision_zero.train, e.g. --schedule clue]
#   OUT=runs/second bash run_scripts/toy_selfplay.sh --seed 2
#   RESUME=1 bash run_scripts/toy_selfplay.sh        # continue a run that was stopped, with its options but those given
#   DRY_RUN=1 bash run_scripts/toy_selfplay.sh       # check, print the commands only
#
# Options are in experiments/base.yaml, which the studies share.

set -euo pipefail
# shellcheck source=run_scripts/training.sh
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"
cd "$root"

OUT="${OUT:-runs/toy_selfplay}"         # where the run goes; one that is there already is never overwritten
FINAL_GAMES="${FINAL_GAMES:-1000}"      # games of the win rate at the end, with cross-play
HELDOUT="${HELDOUT:-500}"               # drawings it is played on, which no training uses
THREADS="${THREADS:-1}"                 # of torch: two on a shared machine are slower than one
RESUME="${RESUME:-0}"                   # 1: continue the run in OUT
DRY_RUN="${DRY_RUN:-0}"                 # 1: check, print the commands and stop

FORMER+=" MODEL:model_name_or_path"
check_variables --arena_every --arena_games
asks_to_resume "$@"
again="bash run_scripts/toy_selfplay.sh"
check_run_folder "$OUT" "RESUME=1 OUT=$OUT $again" "OUT=runs/another $again"

check_numbers FINAL_GAMES HELDOUT THREADS
command=(python -m vision_zero.train --output_dir "$OUT")
if [ "$RESUME" = 1 ]; then command+=(--resume true); else command+=(--config experiments/base.yaml --seed 1); fi
command+=("$@")
evaluate=(python -m vision_zero.evaluate win-rate "$OUT" --drawn "$HELDOUT" --games "$FINAL_GAMES" --use_cpu true
    --out "$OUT/evaluation.jsonl")
summarize=(python -m vision_zero.report "$OUT" --summary)
draw=(python -m vision_zero.report "$OUT" --curves --out "$OUT/run.png")
page=(python -m vision_zero.report "$OUT")

check_options
if [ "$DRY_RUN" = 1 ]; then
    printf '%q ' "${command[@]}"
    printf '\n'
    command=("${evaluate[@]}")
fi
stop_if_dry

bash setup.sh
activate
run_on_this_cpu
echo "toy_selfplay.sh: training in $OUT"
run "${command[@]}"

printf '\n=== against the model it started from, and cross-play\n'
"${evaluate[@]}"
printf '\n=== what happened\n'
"${summarize[@]}"
printf '\n'
"${draw[@]}"
"${page[@]}"

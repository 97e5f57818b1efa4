#!/usr/bin/env bash
# Does self-play make the tiny model stronger? A full Iterative-SPO run from data/tiny_vlm on drawn scenes, on the CPU,
# with its win rate against the frozen start on the way, cross-play at the end, a summary and a picture.
#
#   bash run_scripts/toy_selfplay.sh [any option of python -m vision_zero.train, e.g. --schedule clue]
#   SEED=2 OUT=runs/second bash run_scripts/toy_selfplay.sh
#   RESUME=1 bash run_scripts/toy_selfplay.sh        # continue a run that was stopped, with its options but those given
#   DRY_RUN=1 bash run_scripts/toy_selfplay.sh       # print the commands only
#
# An empty variable leaves the value of experiments/base.yaml, which the studies share.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
cd "$root"

OUT="${OUT:-runs/toy_selfplay}"         # where the run goes; one that is there already is never overwritten
SEED="${SEED:-}"                        # 1 if empty: of the deals and of what is sampled
MODEL="${MODEL:-}"                      # the start, and the frozen model it is held against
ITERATIONS="${ITERATIONS:-}"            # of play and update
GAMES="${GAMES:-}"                      # games per iteration
GENERATIONS="${GENERATIONS:-}"          # votes per game
CIVILIANS="${CIVILIANS:-}"              # beside one spy
ROUNDS="${ROUNDS:-}"                    # of clues
LEARNING_RATE="${LEARNING_RATE:-}"      # of AdamW
ARENA_EVERY="${ARENA_EVERY:-}"          # iterations from one win rate to the next
ARENA_GAMES="${ARENA_GAMES:-}"          # games of each win rate on the way
FINAL_GAMES="${FINAL_GAMES:-1000}"      # games of the win rate at the end, with cross-play
HELDOUT="${HELDOUT:-500}"               # drawings it is played on, which no training uses
THREADS="${THREADS:-1}"                 # of torch: two on a shared machine are slower than one
RESUME="${RESUME:-0}"                   # 1: continue the run in OUT
DRY_RUN="${DRY_RUN:-0}"                 # 1: print the commands and stop

asks_to_resume "$@"
again="bash run_scripts/toy_selfplay.sh"
check_run_folder "$OUT" "RESUME=1 OUT=$OUT $again" "OUT=runs/another $again"

if [ -n "$MODEL" ]; then check_model MODEL "$MODEL"; fi
check_numbers SEED ITERATIONS GAMES GENERATIONS CIVILIANS ROUNDS ARENA_EVERY ARENA_GAMES FINAL_GAMES HELDOUT THREADS
command=(python -m vision_zero.train --config experiments/base.yaml --output_dir "$OUT")
if [ "$RESUME" = 1 ]; then
    command=(python -m vision_zero.train --output_dir "$OUT" --resume true)
else
    SEED="${SEED:-1}"
fi
option seed "$SEED"
option model_name_or_path "$MODEL"
option iterations "$ITERATIONS"
option games_per_iteration "$GAMES"
option num_generations "$GENERATIONS"
option civilians "$CIVILIANS"
option rounds "$ROUNDS"
option learning_rate "$LEARNING_RATE"
option arena_every "$ARENA_EVERY"
option arena_games "$ARENA_GAMES"
command+=("$@")
evaluate=(python -m vision_zero.evaluate win-rate "$OUT" --drawn "$HELDOUT" --games "$FINAL_GAMES" --use_cpu true
    --out "$OUT/evaluation.jsonl")
summarize=(python -m vision_zero.report "$OUT" --summary)
draw=(python -m vision_zero.report "$OUT" --curves --out "$OUT/run.png")
page=(python -m vision_zero.report "$OUT")

if [ "$DRY_RUN" = 1 ]; then
    printf '%q ' "${command[@]}"
    printf '\n'
    printf '%q ' "${evaluate[@]}"
    printf '\n'
    exit 0
fi

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

#!/usr/bin/env bash
# Start models of the study of the N/A trap: the tiny model taught a little longer, with other shares of guesses among
# the votes. What vote accuracy each has is printed and stands in its README.md; ten minutes for all.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

make() { # NAME SHARE_OF_GUESSES STEPS
    if [ -f "runs/experiments/starts/$1/README.md" ]; then return; fi
    python experiments/make_tiny_vlm.py --start data/tiny_vlm --out "runs/experiments/starts/$1" \
        --lesson_steps 0 --game_steps "$3" --guesses "$2"
}
make vote-0.24 1.0 500
make vote-0.28 1.0 230
make vote-0.5 0.0 150

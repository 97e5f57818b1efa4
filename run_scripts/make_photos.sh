#!/usr/bin/env bash
# Make pairs of photographs: yours, and an edited version of each.
#
#   OUT=my/photos bash run_scripts/make_photos.sh [any option of python -m vision_zero.make_data photos]
#   DRY_RUN=1 OUT=my/photos bash run_scripts/make_photos.sh       # check, print the command only
#
# A run that was stopped continues with the same command. The environment sets OUT, N, PHOTOS, WORKERS and DRY_RUN; all
# else is a flag: change its line in `options`, or give it as an argument, which wins. `python -m vision_zero.make_data
# photos --help` says what each option means; docs/data.md shows it.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

OUT="${OUT:-$root/runs/photos}"       # the folder: new, or begun with the same values
N="${N:-}"                            # pairs; empty: as the photographs give [paper: 1000]
PHOTOS="${PHOTOS:-$root/data/photos}" # folders with photographs; several with commas
WORKERS="${WORKERS:-$(nproc)}"        # processes; the result does not depend on them
DRY_RUN="${DRY_RUN:-0}"               # 1: check, print the command and stop

options=(
    --seed 0                          # pair k of a seed is always the same
    --min_changed 0.02                # least share of pixels that change [ours]
    --max_changed 0.6                 # largest such share [ours]
    --failed_edits 0                  # share made to fail on purpose, half blank, half identical [paper: 0.2 costs little]
    --editor none                     # instruct-pix2pix or flux-kontext, in place of --edits
)
FORMER="SIZE EDITS INSTRUCTIONS"

check_variables "${options[@]}"
check_numbers N WORKERS
IFS=, read -ra photos <<<"$PHOTOS"
check_paths PHOTOS "${photos[@]}"
command=(python -m vision_zero.make_data photos --out "$OUT" --workers "$WORKERS" --photos "${photos[@]}" "${options[@]}")
option n "$N"
command+=("$@")
check_options
stop_if_dry

activate
exec "${command[@]}"

#!/usr/bin/env bash
# Make pairs of photographs: yours, and an edited version of each.
#
#   OUT=my/photos bash run_scripts/make_photos.sh [any option of python -m vision_zero.make_data photos]
#   DRY_RUN=1 OUT=my/photos bash run_scripts/make_photos.sh       # print the command only
#
# A run that was stopped continues with the same command. Change a value below, or set it in the environment for one
# run. `python -m vision_zero.make_data photos --help` says what each option means; docs/data.md shows it.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

OUT="${OUT:-$root/runs/photos}"         # the folder: new, or begun with the same values
N="${N:-}"                              # pairs; empty: as the photographs give [paper: 1000]
SEED="${SEED:-0}"                       # pair k of a seed is always the same
SIZE="${SIZE:-}"                        # width x height in pixels; empty: each photograph's own
WORKERS="${WORKERS:-$(nproc)}"          # processes; the result does not depend on them
PHOTOS="${PHOTOS:-$root/data/photos}"   # folders with photographs; several with commas
EDITS="${EDITS:-}"                      # kinds of edit without a model, as "recolour_object paste"; empty: all
MIN_CHANGED="${MIN_CHANGED:-0.02}"      # least share of pixels that change [ours]
MAX_CHANGED="${MAX_CHANGED:-0.6}"       # largest such share [ours]
FAILED_EDITS="${FAILED_EDITS:-0}"       # share of edits made to fail on purpose, half blank, half identical [paper: 0.2 costs little]
EDITOR="${EDITOR:-none}"                # instruct-pix2pix or flux-kontext, in place of EDITS
INSTRUCTIONS="${INSTRUCTIONS:-}"        # what the editor is told, a .txt or .jsonl file; empty: ours
DRY_RUN="${DRY_RUN:-0}"                 # 1: print the command and stop

# ----------------------------------------------------------------------------------------------------------- the command

command=(python -m vision_zero.make_data photos --out "$OUT" --seed "$SEED" --workers "$WORKERS")
option n "$N"
option size "$SIZE"
[ -n "$PHOTOS" ] || die "set PHOTOS to your photographs"
IFS=, read -ra photos <<<"$PHOTOS"
check_paths PHOTOS "${photos[@]}"
if [ -n "$INSTRUCTIONS" ]; then check_paths INSTRUCTIONS "$INSTRUCTIONS"; fi
check_numbers N SEED WORKERS
command+=(--photos "${photos[@]}")
options edits "$EDITS"
option min_changed "$MIN_CHANGED"
option max_changed "$MAX_CHANGED"
option failed_edits "$FAILED_EDITS"
option editor "$EDITOR"
option instructions "$INSTRUCTIONS"
command+=("$@")

stop_if_dry

# ------------------------------------------------------------------------------------------------------------------- run

activate
exec "${command[@]}"

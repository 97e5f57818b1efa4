#!/usr/bin/env bash
# Make pairs of photographs: yours, and an edited version of each.
#
#   OUT=my/photos bash run_scripts/make_photos.sh [any option of python -m vision_zero.make_data photos]
#   DRY_RUN=1 OUT=my/photos bash run_scripts/make_photos.sh       # print the command only
#
# A run that was stopped continues with the same command. Change a value below, or set it in the environment for one
# run. `python -m vision_zero.make_data photos --help` says what each option means; docs/making-photos.md shows it.

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
die() {
    echo "make_photos.sh: error: $*" >&2
    exit 1
}

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
option() { # NAME VALUE: adds --NAME VALUE to the command, unless VALUE is empty
    if [ -n "$2" ]; then command+=("--$1" "$2"); fi
}
options() { # NAME VALUES: the same for several values, separated by spaces
    local values
    read -ra values <<<"$2"
    if [ "${#values[@]}" -gt 0 ]; then command+=("--$1" "${values[@]}"); fi
}
option n "$N"
option size "$SIZE"
[ -n "$PHOTOS" ] || die "set PHOTOS to your photographs"
IFS=, read -ra photos <<<"$PHOTOS"
command+=(--photos "${photos[@]}")
options edits "$EDITS"
option min_changed "$MIN_CHANGED"
option max_changed "$MAX_CHANGED"
option failed_edits "$FAILED_EDITS"
option editor "$EDITOR"
option instructions "$INSTRUCTIONS"
command+=("$@")

if [ "$DRY_RUN" = 1 ]; then
    printf '%q ' "${command[@]}"
    echo
    exit 0
fi

# ------------------------------------------------------------------------------------------------------------------- run

if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    [ -f "$root/.venv/bin/activate" ] || die "nothing is installed yet: run bash $root/setup.sh"
    # shellcheck source=/dev/null
    source "$root/.venv/bin/activate"
fi
exec "${command[@]}"

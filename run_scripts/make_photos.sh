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
DRY_RUN="${DRY_RUN:-0}"                 # 1: print the command and stop

# ----------------------------------------------------------------------------------------------------------- the command

command=(python -m vision_zero.make_data photos --out "$OUT" --seed "$SEED" --workers "$WORKERS")
option() { # NAME VALUE: adds --NAME VALUE to the command, unless VALUE is empty
    if [ -n "$2" ]; then command+=("--$1" "$2"); fi
}
option n "$N"
option size "$SIZE"
[ -n "$PHOTOS" ] || die "set PHOTOS to your photographs"
IFS=, read -ra photos <<<"$PHOTOS"
command+=(--photos "${photos[@]}")
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

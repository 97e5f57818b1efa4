#!/usr/bin/env bash
# Make pairs of CLEVR scenes: objects rendered, two of them then changed in colour and shape.
#
#   OUT=my/clevr bash run_scripts/make_clevr.sh [any option of python -m vision_zero.make_data clevr]
#   DRY_RUN=1 OUT=my/clevr bash run_scripts/make_clevr.sh       # print the command only
#
# A run that was stopped continues with the same command. Change a value below, or set it in the environment for one
# run. `python -m vision_zero.make_data clevr --help` says what each option means; docs/making-clevr.md shows it.

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
die() {
    echo "make_clevr.sh: error: $*" >&2
    exit 1
}

OUT="${OUT:-$root/runs/clevr}"           # the folder: new, or begun with the same values
N="${N:-2000}"                           # pairs [paper]
SEED="${SEED:-0}"                        # pair k of a seed is always the same
SIZE="${SIZE:-320x240}"                  # width x height in pixels [paper]
WORKERS="${WORKERS:-$(nproc)}"           # processes; the result does not depend on them
OBJECTS="${OBJECTS:-4 6}"                # least and most objects of a scene [paper]
EDITED="${EDITED:-2}"                    # objects that change [paper]
ATTRIBUTES="${ATTRIBUTES:-colour shape}" # what of them changes [paper]
EDIT_SHARE="${EDIT_SHARE:-0 1}"          # bounds of the share of pixels that show a changed object: how hard [ours]
MIN_PIXELS="${MIN_PIXELS:-200}"          # pixels of every object that are seen, of 320x240 [CLEVR]
GAP="${GAP:-0.25}"                       # least room between two objects [CLEVR]
MARGIN="${MARGIN:-0.4}"                  # least distance along left-right and front-behind [CLEVR]
CAMERA_JITTER="${CAMERA_JITTER:-0.5}"    # most that the camera moves along each axis [CLEVR]
LAMP_JITTER="${LAMP_JITTER:-1.0}"        # most that each lamp moves along each axis [CLEVR]
RENDERER="${RENDERER:-numpy}"            # numpy, or blender after bash setup.sh --blender
SAMPLES="${SAMPLES:-16}"                 # rays per pixel, blender only [ours]
DRY_RUN="${DRY_RUN:-0}"                  # 1: print the command and stop

# ----------------------------------------------------------------------------------------------------------- the command

command=(python -m vision_zero.make_data clevr --out "$OUT" --seed "$SEED" --workers "$WORKERS")
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
options objects "$OBJECTS"
option edited "$EDITED"
options attributes "$ATTRIBUTES"
options edit_share "$EDIT_SHARE"
option min_pixels "$MIN_PIXELS"
option gap "$GAP"
option margin "$MARGIN"
option camera_jitter "$CAMERA_JITTER"
option lamp_jitter "$LAMP_JITTER"
option renderer "$RENDERER"
option samples "$SAMPLES"
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

#!/usr/bin/env bash
# Make pairs of CLEVR scenes: objects rendered, two of them then changed in colour and shape.
#
#   OUT=my/clevr bash run_scripts/make_clevr.sh [any option of python -m vision_zero.make_data clevr]
#   DRY_RUN=1 OUT=my/clevr bash run_scripts/make_clevr.sh       # print the command only
#
# A run that was stopped continues with the same command. Change a value below, or set it in the environment for one
# run. `python -m vision_zero.make_data clevr --help` says what each option means; docs/data.md shows it.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

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

check_numbers N SEED WORKERS
command=(python -m vision_zero.make_data clevr --out "$OUT" --seed "$SEED" --workers "$WORKERS")
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

stop_if_dry

# ------------------------------------------------------------------------------------------------------------------- run

activate
exec "${command[@]}"

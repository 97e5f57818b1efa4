#!/usr/bin/env bash
# Make pairs of CLEVR scenes: objects rendered, two of them then changed in colour and shape.
#
#   OUT=my/clevr bash run_scripts/make_clevr.sh [any option of python -m vision_zero.make_data clevr]
#   DRY_RUN=1 OUT=my/clevr bash run_scripts/make_clevr.sh       # check, print the command only
#
# A run that was stopped continues with the same command. The environment sets OUT, N, WORKERS and DRY_RUN; all else is a
# flag: change its line in `options`, or give it as an argument, which wins. `python -m vision_zero.make_data clevr --help`
# says what each option means; docs/data.md shows it.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

OUT="${OUT:-$root/runs/clevr}"  # the folder: new, or begun with the same values
N="${N:-2000}"                  # pairs [paper]
WORKERS="${WORKERS:-$(nproc)}"  # processes; the result does not depend on them
DRY_RUN="${DRY_RUN:-0}"         # 1: check, print the command and stop

options=(
    --seed 0                    # pair k of a seed is always the same
    --size 320x240              # width x height in pixels [paper]
    --objects 4 6               # least and most objects of a scene [paper]
    --edited 2                  # objects that change [paper]
    --attributes colour shape   # what of them changes [paper]
    --edit_share 0 1            # bounds of the share of pixels that show a changed object: how hard [ours]
    --min_pixels 200            # pixels of every object that are seen, of 320x240 [CLEVR]
    --gap 0.25                  # least room between two objects [CLEVR]
    --margin 0.4                # least distance along left-right and front-behind [CLEVR]
    --camera_jitter 0.5         # most that the camera moves along each axis [CLEVR]
    --lamp_jitter 1.0           # most that each lamp moves along each axis [CLEVR]
    --renderer numpy            # numpy, or blender after bash setup.sh --blender
    --samples 16                # rays per pixel, blender only [ours]
)

check_variables "${options[@]}"
check_numbers N WORKERS
command=(python -m vision_zero.make_data clevr --out "$OUT" --n "$N" --workers "$WORKERS" "${options[@]}" "$@")
check_options
stop_if_dry

activate
exec "${command[@]}"

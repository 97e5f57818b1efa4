#!/usr/bin/env bash
# Fetch a ready-made set of image pairs from the Hub, or from a local copy of it, into a folder that training reads.
#
#   SET=magicbrush bash run_scripts/download_data.sh [any option of python -m vision_zero.make_data download]
#   SET=chartqa SOURCE=copies/ChartQA bash run_scripts/download_data.sh       # nothing is asked of the network
#   SET=imgedit bash run_scripts/download_data.sh --part remove_part5
#   DRY_RUN=1 SET=magicbrush bash run_scripts/download_data.sh                # check, print the command only
#
# A fetch that was stopped continues with the same command. Change a value below, or set it in the environment for one
# run. docs/data.md lists the sets.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

SET="${SET:-vision-zero-clevr}"         # a name that --help lists, or OWNER/NAME on the Hub
SOURCE="${SOURCE:-}"                    # a folder with the set's files, in place of the Hub
OUT="${OUT:-$root/runs/${SET##*/}}"     # the folder: new, or begun with the same values
LIMIT="${LIMIT:-}"                      # pairs to keep; empty: all
SPLIT="${SPLIT:-}"                      # part of the set; empty: its training part
COLUMNS_OF="${COLUMNS_OF:-}"            # tables only: "IMAGE EDITED", if the names are not known ones
DRY_RUN="${DRY_RUN:-0}"                 # 1: check, print the command and stop

# ----------------------------------------------------------------------------------------------------------- the command

if [ -n "$SOURCE" ]; then check_paths SOURCE "$SOURCE"; fi
check_numbers LIMIT
command=(python -m vision_zero.make_data download "$SET" --out "$OUT")
option source "$SOURCE"
option limit "$LIMIT"
option split "$SPLIT"
options columns "$COLUMNS_OF"
command+=("$@")

check_options
stop_if_dry

# ------------------------------------------------------------------------------------------------------------------- run

activate
exec "${command[@]}"

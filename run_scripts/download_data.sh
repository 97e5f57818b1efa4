#!/usr/bin/env bash
# Fetch a ready-made set of image pairs from the Hub, or from a local copy of it, into a folder that training reads.
#
#   SET=magicbrush bash run_scripts/download_data.sh [any option of python -m vision_zero.download_data]
#   SET=chartqa SOURCE=copies/ChartQA bash run_scripts/download_data.sh       # nothing is asked of the network
#   SET=imgedit bash run_scripts/download_data.sh --part remove_part5
#   DRY_RUN=1 SET=magicbrush bash run_scripts/download_data.sh                # print the command only
#
# A fetch that was stopped continues with the same command. Change a value below, or set it in the environment for one
# run. docs/making-data.md lists the sets.

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
die() {
    echo "download_data.sh: error: $*" >&2
    exit 1
}

SET="${SET:-vision-zero-clevr}"         # a name that --help lists, or OWNER/NAME on the Hub
SOURCE="${SOURCE:-}"                    # a folder with the set's files, in place of the Hub
OUT="${OUT:-$root/runs/${SET##*/}}"     # the folder: new, or begun with the same values
LIMIT="${LIMIT:-}"                      # pairs to keep; empty: all
SPLIT="${SPLIT:-}"                      # part of the set; empty: its training part
COLUMNS_OF="${COLUMNS_OF:-}"            # tables only: "IMAGE EDITED", if the names are not known ones
DRY_RUN="${DRY_RUN:-0}"                 # 1: print the command and stop

# ----------------------------------------------------------------------------------------------------------- the command

command=(python -m vision_zero.download_data "$SET" --out "$OUT")
option() { # NAME VALUE: adds --NAME VALUE to the command, unless VALUE is empty
    if [ -n "$2" ]; then command+=("--$1" "$2"); fi
}
option source "$SOURCE"
option limit "$LIMIT"
option split "$SPLIT"
if [ -n "$COLUMNS_OF" ]; then
    read -ra columns <<<"$COLUMNS_OF"
    command+=(--columns "${columns[@]}")
fi
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

#!/usr/bin/env bash
# Make pairs of charts: drawn from tables, then drawn again with a change.
#
#   OUT=my/charts bash run_scripts/make_charts.sh [any option of python -m vision_zero.make_data charts]
#   DRY_RUN=1 OUT=my/charts bash run_scripts/make_charts.sh       # check, print the command only
#
# A run that was stopped continues with the same command. The environment sets OUT, N, WORKERS and DRY_RUN; all else is a
# flag: change its line in `options`, or give it as an argument, which wins. `python -m vision_zero.make_data charts --help`
# says what each option means; docs/data.md shows it.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

OUT="${OUT:-$root/runs/charts}" # the folder: new, or begun with the same values
N="${N:-1000}"                  # pairs [paper]
WORKERS="${WORKERS:-$(nproc)}"  # processes; the result does not depend on them
DRY_RUN="${DRY_RUN:-0}"         # 1: check, print the command and stop

options=(
    --seed 0                    # pair k of a seed is always the same
    --tables vega statsmodels   # sources: built in, ChartQA's folder, CSV files or folders of them
    --edits values labels trend # swap two values [paper], swap two labels, turn a trend round [ours]
    --min_difference 0.2        # of swapped values, as a share of their range [ours]
    --parts_per_table 100       # most parts of one table that are charted, per kind [ours]
    --changed 0.001 0.4         # bounds of the share of pixels that change [ours]
)
FORMER="SIZE KINDS"

check_variables "${options[@]}"
check_numbers N WORKERS
command=(python -m vision_zero.make_data charts --out "$OUT" --n "$N" --workers "$WORKERS" "${options[@]}" "$@")
check_options
stop_if_dry

activate
exec "${command[@]}"

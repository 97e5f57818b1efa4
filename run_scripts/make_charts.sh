#!/usr/bin/env bash
# Make pairs of charts: drawn from tables, then drawn again with a change.
#
#   OUT=my/charts bash run_scripts/make_charts.sh [any option of python -m vision_zero.make_data charts]
#   DRY_RUN=1 OUT=my/charts bash run_scripts/make_charts.sh       # print the command only
#
# A run that was stopped continues with the same command. Change a value below, or set it in the environment for one
# run. `python -m vision_zero.make_data charts --help` says what each option means; docs/data.md shows it.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

OUT="${OUT:-$root/runs/charts}"           # the folder: new, or begun with the same values
N="${N:-1000}"                            # pairs [paper]
SEED="${SEED:-0}"                         # pair k of a seed is always the same
SIZE="${SIZE:-}"                          # width x height in pixels; empty: the domain's own
WORKERS="${WORKERS:-$(nproc)}"            # processes; the result does not depend on them
TABLES="${TABLES:-vega statsmodels}"      # sources: built in, ChartQA's folder, CSV files or folders of them
KINDS="${KINDS:-}"                        # of charts, as "bar line pie"; empty: all
EDITS="${EDITS:-values labels trend}"     # swap two values [paper], swap two labels, turn a trend round [ours]
MIN_DIFFERENCE="${MIN_DIFFERENCE:-0.2}"   # of swapped values, as a share of their range [ours]
PARTS_PER_TABLE="${PARTS_PER_TABLE:-100}" # most parts of one table that are charted, per kind [ours]
CHANGED="${CHANGED:-0.001 0.4}"           # bounds of the share of pixels that change [ours]
DRY_RUN="${DRY_RUN:-0}"                   # 1: print the command and stop

# ----------------------------------------------------------------------------------------------------------- the command

check_numbers N SEED WORKERS
command=(python -m vision_zero.make_data charts --out "$OUT" --seed "$SEED" --workers "$WORKERS")
option n "$N"
option size "$SIZE"
options tables "$TABLES"
options kinds "$KINDS"
options edits "$EDITS"
option min_difference "$MIN_DIFFERENCE"
option parts_per_table "$PARTS_PER_TABLE"
options changed "$CHANGED"
command+=("$@")

stop_if_dry

# ------------------------------------------------------------------------------------------------------------------- run

activate
exec "${command[@]}"

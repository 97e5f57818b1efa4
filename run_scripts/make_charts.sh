#!/usr/bin/env bash
# Make pairs of charts: drawn from tables, then drawn again with a change.
#
#   OUT=my/charts bash run_scripts/make_charts.sh [any option of python -m vision_zero.make_data charts]
#   DRY_RUN=1 OUT=my/charts bash run_scripts/make_charts.sh       # print the command only
#
# A run that was stopped continues with the same command. Change a value below, or set it in the environment for one
# run. `python -m vision_zero.make_data charts --help` says what each option means; docs/making-charts.md shows it.

set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
die() {
    echo "make_charts.sh: error: $*" >&2
    exit 1
}

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

command=(python -m vision_zero.make_data charts --out "$OUT" --seed "$SEED" --workers "$WORKERS")
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
options tables "$TABLES"
options kinds "$KINDS"
options edits "$EDITS"
option min_difference "$MIN_DIFFERENCE"
option parts_per_table "$PARTS_PER_TABLE"
options changed "$CHANGED"
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

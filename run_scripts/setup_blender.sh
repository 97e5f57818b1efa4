#!/usr/bin/env bash
# Install Blender's Python module into .venv-blender, for `make_data clevr --renderer blender`.
#
#   bash run_scripts/setup_blender.sh [--force]
#   DRY_RUN=1 bash run_scripts/setup_blender.sh       # say what would be done
#
#   --force   install again
#
# `bash setup.sh --blender` calls this after it has installed the system libraries that Blender needs. The module is
# bound to one version of Python, large, and under the GPL: it never goes into the environment of everything else.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
cd "$root"

BPY="bpy==4.2.23"                       # the long-term release for Python 3.11; later ones want numpy < 2 beside them
ENVIRONMENT="$PWD/.venv-blender"

say() { echo "setup_blender.sh: $*"; }

force=0
for argument in "$@"; do
    case "$argument" in
        --force) force=1 ;;
        *) die "unknown argument '$argument' (see bash run_scripts/setup_blender.sh --help)" ;;
    esac
done

python="$ENVIRONMENT/bin/python"
stamp="$ENVIRONMENT/.vision_zero_setup"  # written last: a stopped installation is begun again
if [ "$force" = 0 ] && [ "$(cat "$stamp" 2>/dev/null)" = "$BPY" ]; then
    say "$ENVIRONMENT is up to date ($BPY); --force installs again"
    exit 0
fi

find_python() {
    local name candidate
    for name in python3.11 python3 python; do
        # Every match on the PATH: the first may be a version manager's stub that does not run.
        while read -r candidate; do
            if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
                echo "$candidate"
                return 0
            fi
        done < <(type -aP "$name")
    done
    return 1
}

base=$(find_python) || die "$BPY needs a Python 3.11 that can make environments. On Debian: apt-get install python3.11-venv"
say "$BPY into $ENVIRONMENT, with $base (350 MB to fetch, 1 GB installed)"
if [ "$DRY_RUN" = 1 ]; then exit 0; fi
"$base" -m venv --clear "$ENVIRONMENT"
"$python" -m pip --disable-pip-version-check --no-input install -qq --progress-bar off "$BPY"
"$python" -c 'import bpy; print("setup_blender.sh: Blender", bpy.app.version_string)' ||
    die "$BPY is installed but does not import; the library that it misses is named above (bash setup.sh --blender)"
echo "$BPY" >"$stamp"

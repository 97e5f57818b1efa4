#!/usr/bin/env bash
# Make the environment in which benchmarks are scored: VLMEvalKit's (.venv-vlmevalkit) or lmms-eval's (.venv-lmms-eval).
#
#   bash run_scripts/setup_vlmevalkit.sh [--with lmms-eval] [--cpu | --gpu] [--force]
#   DRY_RUN=1 bash run_scripts/setup_vlmevalkit.sh       # say what would be done
#
#   --with         vlmevalkit or lmms-eval; without it: vlmevalkit
#   --cpu, --gpu   which torch; without either: GPU where an NVIDIA driver answers and CPU elsewhere
#   --force        make it anew, even if nothing changed since the last time
#
# Apart from the training's environment, because the tools need other versions of some packages. Python 3.11 or 3.12;
# about 6 GB each. A second run returns at once unless the requirements or the choice have changed.

set -Eeuo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
cd "$root"

VLMEVALKIT="ms-vlmeval==0.0.20"         # VLMEvalKit 0.2rc1 as a package; without the 66 it asks for
LMMS_EVAL="lmms-eval==0.7.3"

step="reading the arguments"
say() { echo "setup_vlmevalkit.sh: $*"; }
die() {
    trap - ERR
    echo "setup_vlmevalkit.sh: error while $step: $*" >&2
    exit 1
}
trap 'die "the command above failed (line $LINENO). Fix what it names and run it again."' ERR

tool=vlmevalkit stack="" force=0
while [ "$#" -gt 0 ]; do
    case "$1" in
        --with)
            tool="${2:-}"
            case "$tool" in vlmevalkit | lmms-eval) ;; *) die "--with '$tool': must be vlmevalkit or lmms-eval" ;; esac
            shift
            ;;
        --cpu | --gpu)
            [ -z "$stack" ] || [ "$stack" = "${1#--}" ] || die "--cpu and --gpu exclude each other"
            stack="${1#--}"
            ;;
        --force) force=1 ;;
        *) die "unknown argument '$1' (see bash run_scripts/setup_vlmevalkit.sh --help)" ;;
    esac
    shift
done
if [ -z "$stack" ]; then
    stack=cpu
    if [[ "$(nvidia-smi -L 2>/dev/null)" == *"GPU 0"* ]]; then stack=gpu; fi
fi
case "$tool" in
    vlmevalkit) package="$VLMEVALKIT" module=vlmeval.run ;;
    lmms-eval) package="$LMMS_EVAL" module=lmms_eval.models.chat.openai ;;
esac
case "$stack" in
    cpu) base=requirements/cpu.txt base_lock=requirements/cpu-lock.txt ;;
    gpu) base=requirements.txt base_lock=requirements/lock.txt ;;
esac
requirements="requirements/$tool.txt" lock="requirements/$tool-lock.txt"
environment="$PWD/.venv-$tool"

step="finding a Python"
is_supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }
python=""
for name in python3.11 python3.12 python3 python; do
    while read -r candidate; do
        if [ -z "$python" ] && is_supported "$candidate"; then python="$candidate"; fi
    done < <(type -aP "$name")
done
[ -n "$python" ] || die "no Python 3.11 or 3.12 on the PATH"

stamp="$environment/.vision_zero_setup"
fingerprint="$stack $package $("$python" -V) $(cat "$requirements" "$lock" "$base" "$base_lock" | sha256sum)"
if [ "$force" = 0 ] && [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$fingerprint" ]; then
    say "$environment is up to date ($stack); --force makes it anew"
    exit 0
fi

step="making $environment"
say "making $environment with $python ($("$python" -V), $stack)"
if [ "$DRY_RUN" = 1 ]; then exit 0; fi
"$python" -m venv --clear "$environment" || die "$python cannot make virtual environments; on Debian: apt-get install python3-venv"
pip_install() {
    "$environment/bin/python" -m pip --disable-pip-version-check --no-input install -qq --progress-bar off "$@"
}

step="installing torch"
say "1/3 torch (the largest part, some GB)"
mapfile -t torch < <(grep -oE '^(torch|torchvision)==[^ ]+' "$base")
pip_install -c "$base_lock" "${torch[@]}"

step="installing $requirements"
say "2/3 $requirements, and $package"
pip_install setuptools wheel # a build from source may ask for them
pip_install -c "$lock" "${torch[@]}" -r "$requirements"
pip_install --no-deps "$package"

step="checking the installation"
say "3/3 checking that it imports"
"$environment/bin/python" -W ignore -c "import $module" >/dev/null 2>"$environment/import.log" ||
    die "$module does not import: $(tail -n 1 "$environment/import.log") (all of it: $environment/import.log)"
echo "$fingerprint" >"$stamp"
say "done: $environment/bin/python"

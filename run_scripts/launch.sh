# shellcheck shell=bash
# What the scripts beside this one share; they source it. `root` is the repository, `command` what a script runs.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
command=()
environment=() # NAME=VALUE, of the command alone
given=" " # variables that were set for this command, before a script's own values
for name in $(compgen -e); do
    if [ -n "${!name}" ]; then given+="$name "; fi
done

die() {
    echo "$(basename "$0"): error: $*" >&2
    exit 1
}

count_gpus() {
    local gpus
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        IFS=, read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    else
        mapfile -t gpus < <(nvidia-smi -L 2>/dev/null | grep '^GPU')
    fi
    echo "${#gpus[@]}"
}

option() { # NAME VALUE: adds --NAME VALUE to the command, unless VALUE is empty
    if [ -n "$2" ]; then command+=("--$1" "$2"); fi
}

options() { # NAME VALUES: the same for several values, separated by spaces
    local values
    read -ra values <<<"$2"
    if [ "${#values[@]}" -gt 0 ]; then command+=("--$1" "${values[@]}"); fi
}

set_by() { # VARIABLE WORDS: adds the words to the command; at a resume, where the run's own options stand, if it was given
    if [ "$RESUME" != 1 ] || [[ "$given" == *" $1 "* ]]; then command+=("${@:2}"); fi
}

stop_if_dry() { # with DRY_RUN=1 prints the command, quoted for a shell, and stops
    if [ "$DRY_RUN" = 1 ]; then
        printf '%q ' "${environment[@]}" "${command[@]}"
        echo
        exit 0
    fi
}

activate() { # the environment that setup.sh made, unless another one is active
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        [ -f "$root/.venv/bin/activate" ] || die "nothing is installed yet: run bash $root/setup.sh"
        # shellcheck source=/dev/null
        source "$root/.venv/bin/activate"
    fi
}

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

holds_a_run() { # FOLDER: whether more is in it than the lock of a run that was ended before it began
    [ -n "$(find "$1" -mindepth 1 -maxdepth 1 ! -name .lock 2>/dev/null)" ]
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

export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 # what torchrun passes on; by itself it dies of USR1
# Seconds that torchrun then waits (by itself 30): for --grace twice, and for a checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-1800}"

become_command() { # signals to this script reach the command, whose status is the script's
    if [ "${command[0]}" = torchrun ]; then command=(python "$root/run_scripts/torchrun.py" "${command[@]:1}"); fi
    exec env "${environment[@]}" "${command[@]}"
}

run() { # COMMAND: its status; signals to this script are passed on, where bash would wait for the command's end
    local again=1 status=0 name
    "$@" &
    # shellcheck disable=SC2064 # the number of this process
    for name in INT TERM USR1; do trap "kill -s $name $! 2>/dev/null || true; again=1" "$name"; done
    while [ "$again" = 1 ]; do
        again=0 status=0
        wait "$!" || status=$?
    done
    trap - INT TERM USR1
    return "$status"
}

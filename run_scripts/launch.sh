# shellcheck shell=bash
# What the scripts beside this one share. They source it first: it answers --help, and reads DRY_RUN. `root` is the
# repository, `command` what a script runs, `variables` what only that has in its environment.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
command=()
variables=() # NAME=VALUE, of the command alone
given=" " # variables that were set for this command, before a script's own values
for name in $(compgen -e); do
    if [ -n "${!name}" ]; then given+="$name "; fi
done

script="${VISION_ZERO_SCRIPT:-$(basename "$0")}" # the one that the user called
die() {
    echo "$script: error: $*" >&2
    exit 1
}
((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] >= 404)) || die "bash $BASH_VERSION is too old: 4.4 or newer is needed"

for argument in "$@"; do
    case "$argument" in
        -h | --help) # the script's header
            sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
            exit 0
            ;;
    esac
done

switch() { # NAME: a variable that is on or off becomes 1 or 0
    case "${!1:-0}" in
        1 | true | yes) printf -v "$1" 1 ;;
        0 | false | no) printf -v "$1" 0 ;;
        *) die "$1=${!1} must be 1 or 0" ;;
    esac
}
switch DRY_RUN

is_number() { [[ "$1" =~ ^(0|[1-9][0-9]*)$ ]]; }

# ------------------------------------------------------------------------------------------- variables of the environment

warn_of_misspelt() { # NAMES, or NAME:FLAG: a line for each variable that is one of them but for a letter, or for two swapped
    compgen -e | awk -v names="$*" -v own="$own" -v script="$script" '
        function near(a, b) {
            while (a != "" && substr(a, 1, 1) == substr(b, 1, 1)) { a = substr(a, 2); b = substr(b, 2) }
            while (a != "" && b != "" && substr(a, length(a)) == substr(b, length(b))) {
                a = substr(a, 1, length(a) - 1); b = substr(b, 1, length(b) - 1)
            }
            if (length(a) <= 1 && length(b) <= 1) return 1
            return length(a) == 2 && a == substr(b, 2) substr(b, 1, 1)
        }
        function key(name) { gsub("_", "", name); return toupper(name) }
        BEGIN {
            n = split(own, known, " ")
            for (i = 1; i <= n; i++) exact[known[i]] = 1
            n = split(names, known, " ")
            for (i = 1; i <= n; i++) { split(known[i], part, ":"); name[i] = part[1]; exact[name[i]] = 1; flag[i] = part[2] }
        }
        !($0 in exact) {
            for (i = 1; i <= n; i++) if ((length(name[i]) >= 6 || (length(name[i]) == 5 && length($0) == 5)) && near(key($0), key(name[i]))) {
                print script ": warning: " $0 " is set, and nothing reads it; did you mean " (flag[i] ? flag[i] : name[i]) "?"
                next
            }
        }' >&2
}
own="$(sed -n 's/^\([A-Z_]*\)="\${\1:-.*/\1/p' "$0" | tr '\n' ' ')" # variables that the script reads at its top
# shellcheck disable=SC2086 # words
warn_of_misspelt $own

FORMER="" # NAMES, or NAME:FLAG: variables of a script until they became flags, beside those of its options
check_variables() { # OPTIONS: dies of variables that are flags, those of the options too, and warns of misspelt ones
    local word name names="" flags="" known=""
    for word in $FORMER $(printf '%s\n' "$@" | sed -n 's/^--//p' | tr '[:lower:]-' '[:upper:]_'); do
        name="${word%%:*}" word="${word#*:}"
        known+="$name:--${word,,} "
        if [[ "$given" == *" $name "* && " $names " != *" $name "* ]]; then
            names+="${names:+ }$name" flags+=" --${word,,} $(printf %q "${!name}")"
        fi
    done
    [ -z "$names" ] || die "$names in the environment: not read, an option is a flag; put it after the script's name:$flags"
    # shellcheck disable=SC2086 # words
    warn_of_misspelt $known
}

# ---------------------------------------------------------------------------------------------------------- the machine

count_gpus() { # how many GPUs a process sees; as CUDA does it, up to the first of CUDA_VISIBLE_DEVICES that is none
    local gpu gpus=() seen=""
    if [ -z "${CUDA_VISIBLE_DEVICES+set}" ]; then
        mapfile -t gpus < <(nvidia-smi -L 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p; s/^ *MIG .*/MIG/p')
        if [[ " ${gpus[*]} " == *" MIG "* ]]; then gpus=(MIG); fi
    else
        IFS=', ' read -ra gpus <<<"$CUDA_VISIBLE_DEVICES"
    fi
    for gpu in "${gpus[@]}"; do
        [[ "$gpu" =~ ^([0-9]+|GPU-.+|MIG.*)$ ]] || break
        if [[ " $seen " == *" $gpu "* ]]; then seen="" && break; fi # one that is named twice: none at all
        seen+="$gpu "
        if [[ "$gpu" == MIG* ]]; then break; fi # a process can use one slice of a GPU
    done
    wc -w <<<"$seen"
}

check_gpus() { # FOUND ASKED WHAT: dies where no GPU is found and NUM_GPUS was not given, or fewer than NUM_GPUS are found
    local wrong=""
    if [ -z "$2" ] && [ "$1" = 0 ]; then
        wrong="no GPU found (nvidia-smi -L, CUDA_VISIBLE_DEVICES=${CUDA_VISIBLE_DEVICES-not set})"
    elif [ "$NUM_GPUS" -gt "$1" ]; then
        wrong="NUM_GPUS=$NUM_GPUS, but this machine shows $1"
    fi
    if [ -z "$wrong" ]; then return; fi
    [ "$DRY_RUN" = 1 ] || die "$wrong; NUM_GPUS=0 $3 on the CPU"
    echo "$script: warning: $wrong; without DRY_RUN this stops here. The command is that of NUM_GPUS=$NUM_GPUS:" >&2
}

check_model() { # NAME MODEL: dies of a path that holds no model; other names are the Hub's
    case "$2" in
        /* | ./* | ../* | data/* | */*/*) ;;
        *) [ -d "$2" ] || return 0 ;;
    esac
    [ -f "$2/config.json" ] || [ -f "$2/adapter_config.json" ] || die "$1: $2 holds no model (no config.json)"
}

check_paths() { # NAME PATHS: dies of the first that is not there
    local path
    for path in "${@:2}"; do [ -e "$path" ] || die "$1: $path does not exist"; done
}

check_numbers() { # NAMES of variables: dies of one that is set and no whole number
    local name
    for name in "$@"; do [ -z "${!name}" ] || is_number "${!name}" || die "$name=${!name} is not a number"; done
}

activated=0
# shellcheck disable=SC2034 # for the script
activate() { # the environment that setup.sh made, unless another one is active; a dry run does without
    if [ -z "${VIRTUAL_ENV:-}${CONDA_PREFIX:-}" ]; then
        if [ -f "$root/.venv/bin/activate" ]; then
            # shellcheck source=/dev/null
            source "$root/.venv/bin/activate"
            activated=1
        elif [ "$DRY_RUN" = 0 ]; then
            die "nothing is installed yet: run bash $root/setup.sh"
        fi
    fi
}

is_installed() { # PACKAGE
    python -c 'import importlib.util, sys; sys.exit(not importlib.util.find_spec(sys.argv[1]))' "$1" 2>/dev/null
}

# ---------------------------------------------------------------------------------------------------------- the command

option() { # NAME VALUE: adds --NAME VALUE to the command, unless VALUE is empty
    if [ -n "$2" ]; then command+=("--$1" "$2"); fi
}

options() { # NAME VALUES: the same for several values, separated by spaces
    local values
    read -ra values <<<"$2"
    if [ "${#values[@]}" -gt 0 ]; then command+=("--$1" "${values[@]}"); fi
}

check_options() { # [PACKAGE [PROCESSES]]: with DRY_RUN=1 dies of options that the program of the command would refuse
    local program=(python "$root/run_scripts/check_options.py" "${2:-1}") at=1
    if [ "$DRY_RUN" = 0 ]; then return; fi
    activate
    if ! is_installed "${1:-trl}"; then
        echo "$script: options not checked: nothing is installed (${1:-trl} is missing)" >&2
        return
    fi
    while [ "${command[at]}" != -m ]; do at=$((at + 1)); done # past the options of torchrun
    OMP_NUM_THREADS=1 "${program[@]}" "${command[@]:at}" >&2 || exit
}

stop_if_dry() { # with DRY_RUN=1 prints the command, quoted for a shell, and stops
    if [ "$DRY_RUN" = 1 ]; then
        printf '%q ' "${variables[@]}" "${command[@]}"
        echo
        exit 0
    fi
}

# ---------------------------------------------------------------------------------------------------------------- a run

# shellcheck disable=SC2034 # RESUME is for the script
asks_to_resume() { # ARGUMENTS: RESUME becomes 1 where they say so
    local all=" $* "
    switch RESUME
    case "${all//resume-from/resume_from}" in
        *" --resume false "* | *" --resume=false "*) ;;
        *" --resume "* | *" --resume="* | *" --resume_from "* | *" --resume_from="*) RESUME=1 ;;
    esac
}

check_run_folder() { # FOLDER CONTINUE ANOTHER: dies of one to resume that is not there, of another that holds a run
    if [ "$RESUME" = 1 ]; then
        [ -d "$1" ] || die "there is no run $1 to resume; start it without RESUME=1 and --resume"
    # These alone are left by a run that was ended before it began (run_folder.py, BEFORE_THE_RUN).
    elif [ -n "$(find "$1" -mindepth 1 -maxdepth 1 ! -name .lock ! -name git.txt ! -name git.diff ! -name versions.txt \
        ! -name pairs.jsonl ! -name model.json ! -name served_adapter 2>/dev/null)" ]; then
        echo "$script: error: $1 holds a run already, and it stays as it is." >&2
        echo "  continue it with $2" >&2
        echo "  look at it with python -m vision_zero.report $1 --summary" >&2
        echo "  start another one with $3" >&2
        exit 1
    fi
}

run_on_this_cpu() { # the environment of the small runs of this repository's own model
    export OMP_NUM_THREADS="$THREADS" HF_HUB_OFFLINE=1 # everything it needs is in the repository
    export TOKENIZERS_PARALLELISM=false
}

export TORCH_CPP_LOG_LEVEL="${TORCH_CPP_LOG_LEVEL:-ERROR}"         # of torchrun too: a warning of a connection is a page of C++
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 # what torchrun passes on; by itself it dies of USR1
# Seconds that torchrun then waits (by itself 30): for --grace twice, and for a checkpoint.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT="${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-1800}"

become_command() { # signals to this script reach the command, whose status is the script's
    if [ "${command[0]}" = torchrun ]; then
        command=(python "$root/run_scripts/torchrun.py" "${command[@]:1}")
    fi
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # as torchrun does, with a warning; two on shared cores are slower than one
    exec env "${variables[@]}" "${command[@]}"
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

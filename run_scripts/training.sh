# shellcheck shell=bash
# What run_grpo_vision_zero.sh does with its options: checks before anything slow starts, vLLM or not, trackers.

# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

FORMER="SEED HOLDOUT ON_BAD_IMAGE MIN_PIXELS MAX_PIXELS CIVILIANS ROUNDS SPY_VIEW MASK_SHARE VOTER TEMPLATE ITERATIONS
    SCHEDULE CYCLE_DECISION CYCLE_CLUE REWARD_BETA REWARD_LAMBDA NA_REWARD FORMAT_WEIGHT RAE_ALPHA RAE_UPDATE RAE_SUBTRACT
    RAE_STAGES RHO ACC_UP NA_DOWN ERR_UP NA_UP K_MIN PATIENCE DEBIAS RESET_AVERAGES TEMPERATURE TOP_K TOP_P MAX_CLUE_TOKENS
    MIN_CLUE_TOKENS MAX_VOTE_TOKENS MIN_VOTE_TOKENS LEARNING_RATE KL_CLUE KL_DECISION LOSS_TYPE MAX_GRAD_NORM DTYPE
    GRADIENT_CHECKPOINTING SAVE_EVERY GRACE EXPORT_EVERY RECORD_GAMES_EVERY LORA_R LORA_ALPHA LORA_DROPOUT
    IMAGE_COLUMNS:columns GAMES:games_per_iteration GENERATIONS:num_generations UPDATES:updates_per_iteration
    LR_SCHEDULER:lr_scheduler_type WARMUP:warmup_steps KL_WEIGHT:beta CLIP_EPSILON:epsilon ATTENTION:attn_implementation
    MICRO_BATCH:per_device_train_batch_size ROLLOUT_BATCH:rollout_batch_size KEEP_CHECKPOINTS:save_total_limit
    LORA_TARGETS:lora_target_modules"
# Variables of the training scripts until they became flags, with the flag where it is not the name in small letters.

# ---------------------------------------------------------------------------------------------------------- the machine

choose_machine() { # NUM_GPUS, NUM_PROCESSES and DEEPSPEED where they are empty
    check_numbers NUM_GPUS NUM_PROCESSES
    if [ "$RESUME" = 1 ] && [ -n "$RUN_NAME" ]; then # what the run has may say that it is on a CPU
        read_values "$OUTPUT_BASE_DIR/$RUN_NAME/config.yaml"
        if [ "${value[use_cpu]-}" = true ]; then NUM_GPUS="${NUM_GPUS:-0}"; fi
    fi
    found="$(count_gpus)" asked="$NUM_GPUS"
    NUM_GPUS="${NUM_GPUS:-$found}"
    if [ "$NUM_GPUS" = 0 ]; then
        NUM_PROCESSES="${NUM_PROCESSES:-1}" DEEPSPEED="${DEEPSPEED:-none}"
    else
        NUM_PROCESSES="${NUM_PROCESSES:-$NUM_GPUS}" DEEPSPEED="${DEEPSPEED:-$root/configs/deepspeed/zero3.json}"
    fi
    [ "$NUM_PROCESSES" -gt 0 ] || die "NUM_PROCESSES=$NUM_PROCESSES must be at least 1"
    check_nodes
}

check_nodes() { # dies of nodes that would not meet; HEAD gets its port, `processes` are those of all nodes
    check_numbers NODES NODE_RANK
    [ "$NODES" -gt 0 ] || die "NODES=$NODES must be at least 1"
    [ "${NODE_RANK:-0}" -lt "$NODES" ] || die "NODE_RANK=$NODE_RANK must be below NODES=$NODES: the first node is 0"
    [[ "$given" != *" HEAD "* || "$given" == *" NODES "* ]] ||
        die "HEAD=$HEAD is for several machines, and NODES is not set: how many there are (1: this one alone)"
    processes=$((NODES * NUM_PROCESSES))
    if [ "$NODES" = 1 ]; then return; fi
    [ -n "$NODE_RANK" ] || die "NODES=$NODES needs NODE_RANK, which differs on every node: 0 to $((NODES - 1))"
    [ -n "$HEAD" ] || die "NODES=$NODES needs HEAD, the address of node 0 as the others reach it: HOST or HOST:PORT"
    [ -n "$RUN_NAME" ] || die "NODES=$NODES needs RUN_NAME, the same on every node: by itself it would have the time"
    case "$HEAD" in *:*) ;; *) HEAD+=":29500" ;; esac
    [[ "$HEAD" =~ ^[A-Za-z0-9._-]+:([1-9][0-9]{0,4})$ && "${BASH_REMATCH[1]}" -le 65535 ]] ||
        die "HEAD=$HEAD must be HOST or HOST:PORT (for IPv6 a name; no user; a port up to 65535)"
}

# ---------------------------------------------------------------------------------------------------------- the options

declare -A value=() # the options that a command has, by name

read_values() { # FILES: from YAML files, where there are any, then from the command, whose last word on an option counts
    local file line word name=""
    for file in "$@"; do
        while IFS= read -r line; do
            word="${line#*:}"
            if [[ "$line" =~ ^\ *-\ +(.*)$ ]]; then word="${value[$name]:+${value[$name]} }${BASH_REMATCH[1]}"; else name="${line%%:*}"; fi
            word="${word%% #*}" word="${word#"${word%%[! ]*}"}"
            value["$name"]="${word%"${word##*[! ]}"}"
        done < <(grep -E '^([a-z_]+:| *- )' "$file" 2>/dev/null)
    done
    name=""
    for word in "${command[@]}"; do
        if [[ "$word" == --* ]]; then
            name="${word#--}" name="${name%%=*}" name="${name//-/_}"
            value["$name"]=true
            if [[ "$word" == *=* ]]; then value["$name"]="${word#*=}" name=""; fi
        elif [ -n "$name" ]; then
            if [ "${value[$name]}" = true ]; then value["$name"]="$word"; else value["$name"]+=" $word"; fi
        fi
    done
}

read_preset() { # ARGUMENTS: `preset` becomes the file of --config, "" if there is none, and its options are read
    local word
    preset=""
    for word in "$@"; do
        case "$word" in
            --config) preset=next ;;
            --config=*) preset="${word#--config=}" ;;
            *) if [ "$preset" = next ]; then preset="$word"; fi ;;
        esac
    done
    if [ -z "$preset" ]; then return; fi
    [ "$preset" != next ] || die "--config needs a YAML file"
    [ -f "$preset" ] || die "--config: $preset is not a file"
    read_values "$preset"
}

set_by() { # VARIABLE OPTION WORDS: adds --OPTION WORDS if the variable was given; if not, where no file has the option
    if [ -z "${*:3}" ]; then return; fi
    if [[ "$given" == *" $1 "* ]] || { [ "$RESUME" = 0 ] && [ -z "${value[$2]-}" ]; }; then command+=("--$2" "${@:3}"); fi
}

check_images() { # dies of a source of IMAGES_DIR that is not there
    local source path
    [ -n "${value[images]-}" ] || die "set IMAGES_DIR to your images, e.g. IMAGES_DIR=$root/data/photos (layouts: docs/data.md)"
    [[ "$IMAGES_DIR" != *$'\n'* ]] || die "IMAGES_DIR has a line break; write its sources on one line, with commas between"
    for source in "${images[@]}"; do
        if [[ "$source" == drawn:* ]]; then continue; fi # drawn when opened: no files
        path="$source"
        # A domain is the name of its template file.
        if [ -f "$root/src/vision_zero/game/templates/${source%%:*}.txt" ]; then path="${source#*:}"; fi
        [ -e "$path" ] || die "IMAGES_DIR: $path does not exist"
    done
}

check_command() { # dies of what the program would refuse after its imports; `output_dir` becomes the run's folder
    read_values
    output_dir="${value[output_dir]-}"
    [ -n "$output_dir" ] || die "RESUME=1 needs the RUN_NAME of the run to continue"
    if [ "$RESUME" = 0 ]; then check_images; fi
    [ -z "$SCENES_DIR" ] || [ -d "$SCENES_DIR" ] || die "SCENES_DIR: $SCENES_DIR is not a folder"
    check_model MODEL "${value[model_name_or_path]-}"
    if [ "$NUM_GPUS" -gt 0 ] && [ "${value[use_cpu]-}" = true ]; then
        die "NUM_GPUS=$NUM_GPUS, but the options have use_cpu: true; set NUM_GPUS=0, or give --use_cpu false"
    fi
    case "$DEEPSPEED $given ${value[deepspeed]-}" in
        "none "*" DEEPSPEED "*" " | "none "*" DEEPSPEED "*" null" | "none "*" DEEPSPEED "*" none") ;;
        "none "*" DEEPSPEED "*) die "DEEPSPEED=none, but the options have deepspeed: ${value[deepspeed]}" ;;
    esac
    [ "$DEEPSPEED" = none ] || [ -f "$DEEPSPEED" ] || die "DEEPSPEED: $DEEPSPEED is not a file (or write none)"
    check_run_folder "$output_dir" "RESUME=1 OUTPUT_BASE_DIR=$(dirname "$output_dir") RUN_NAME=$(basename "$output_dir") bash run_scripts/$script" "another RUN_NAME"
    check_gpus "$found" "$asked" trains
    check_shares
    decide_vllm
}

unlike() { # PRESET: what the command has otherwise than that file, as NAME=VALUE (THE FILE'S)
    local name preset own
    while IFS=: read -r name preset; do
        preset="${preset%%#*}" preset="${preset// /}" own="${value[$name]-}"
        if [ -z "$own" ] || [ "$own" = "$preset" ]; then continue; fi
        if [[ "$own$preset" =~ ^[-+.0-9e]+$ ]] && awk "BEGIN { exit !($own == $preset) }"; then continue; fi
        printf ' %s=%s (%s)' "$name" "$own" "$preset"
    done < <(grep -E '^[a-z_]+:' "$1")
}

check_shares() { # dies of games that the processes cannot share, which the program would find after its imports
    local games="${value[games_per_iteration]-}" votes="${value[num_generations]-}" rows
    local micro="${value[per_device_train_batch_size]-}" updates="${value[updates_per_iteration]-}"
    if ! is_number "$games" || ! is_number "$votes" || ! is_number "$micro" || ! is_number "$updates"; then return; fi
    if ((games % processes)); then
        die "games_per_iteration=$games cannot be shared evenly by $processes processes;" \
            "give --games_per_iteration $(((games / processes + 1) * processes))"
    fi
    rows=$((games * votes / processes))
    if ((micro * updates == 0 || rows % (micro * updates))); then
        die "every process has $rows votes per iteration (games_per_iteration x num_generations / processes), no multiple" \
            "of per_device_train_batch_size=$micro x updates_per_iteration=$updates; give --per_device_train_batch_size" \
            "or another of them"
    fi
}

decide_vllm() { # `--use_vllm auto` of the command becomes true where there is a GPU and vLLM is installed, else false
    local at
    if [ "${value[use_vllm]-}" = auto ]; then
        value[use_vllm]=false
        if [ "$NUM_GPUS" -gt 0 ] && is_installed vllm; then value[use_vllm]=true; fi
    fi
    for at in "${!command[@]}"; do
        case "${command[at]}" in
            --use_vllm=auto | --use-vllm=auto) command[at]="--use_vllm=${value[use_vllm]}" ;;
            auto) if [[ "${command[at - 1]}" == --use[_-]vllm ]]; then command[at]="${value[use_vllm]}"; fi ;;
        esac
    done
}

say_what_starts() { # the banner; whoever resumes is told by the program what it goes on with
    local where="on $NUM_GPUS GPUs" player="transformers plays" tracker="${value[report_to]-none}"
    mkdir -p "$OUTPUT_BASE_DIR"
    export WANDB_PROJECT WANDB_DIR="${WANDB_DIR:-$OUTPUT_BASE_DIR}"
    export WANDB_DATA_DIR="${WANDB_DATA_DIR:-$WANDB_DIR/wandb/data}" # images of games, which a later sync needs
    if [[ "$tracker" == *wandb* ]]; then tracker+=" in $WANDB_DIR/wandb"; fi
    if [ "${NODE_RANK:-0}" != 0 ]; then
        echo "node $NODE_RANK of $NODES (0 to $((NODES - 1))) of $output_dir; node 0 is at $HEAD"
        return
    fi
    if [ "$RESUME" = 1 ]; then
        echo "continuing $output_dir with the options of its config.yaml, and what was set for this command"
        return
    fi
    if [ "$NUM_GPUS" = 0 ]; then where="on the CPU"; fi
    if [ "$NODES" != 1 ]; then where+=" of each of $NODES nodes, node 0 at $HEAD"; fi
    if [ "${value[use_vllm]-}" = true ]; then player="vLLM plays"; fi
    cat <<REPORT
run          $output_dir
images       ${value[images]}; model: ${value[model_name_or_path]}
processes    $NUM_PROCESSES $where, DeepSpeed: $DEEPSPEED; $player (--use_vllm)
tracker      $tracker; metrics.jsonl and games/ are in the run's folder
unlike configs/paper_v2.yaml:$(unlike "$root/configs/paper_v2.yaml")
afterwards   python -m vision_zero.report $output_dir --summary
REPORT
}

#!/usr/bin/env bash
# Train LoRA adapters on one GPU: run_grpo_vision_zero.sh with other values and no DeepSpeed.
#
#   IMAGES_DIR=my/images bash run_scripts/run_lora_1gpu.sh [any option of python -m vision_zero.train]
#
# Every variable of run_grpo_vision_zero.sh works here too (RESUME=1, DRY_RUN=1, RUN_NAME=...). The values below are this
# repository's choices for one large GPU, [ours]: the paper trains all weights on 8 GPUs and says nothing about LoRA.

set -euo pipefail

export NUM_GPUS="${NUM_GPUS:-1}"                        # 0 runs on the CPU
export DEEPSPEED="${DEEPSPEED:-none}"                   # ZeRO has nothing to share out on one GPU
if [ "${RESUME:-0}" != 1 ]; then                          # a run that is resumed has its own
    export DTYPE="${DTYPE:-bfloat16}"                       # of the frozen weights; the adapters are kept in float32
    export GAMES="${GAMES:-32}"                             # per iteration [paper: 128]
    export MICRO_BATCH="${MICRO_BATCH:-4}"                  # completions per forward and backward pass; memory only
    export ROLLOUT_BATCH="${ROLLOUT_BATCH:-64}"             # completions generated at once; memory only
    export LEARNING_RATE="${LEARNING_RATE:-1e-4}"           # ten times that of full training [ours, not tuned]
fi

lora=(--use_peft true)
add() { # NAME VALUE DEFAULT: adds --NAME VALUE, or the default unless the run is resumed
    if [ -n "$2" ]; then lora+=("--$1" "$2"); elif [ "${RESUME:-0}" != 1 ]; then lora+=("--$1" "$3"); fi
}
add lora_r "${LORA_R:-}" 32                             # rank of the adapters [TRL: 16]
add lora_alpha "${LORA_ALPHA:-}" 64                     # scale: adapters count LORA_ALPHA / LORA_R [TRL: 32]
add lora_dropout "${LORA_DROPOUT:-}" 0.0                # 0: with dropout, training would not see the policy that played [TRL: 0.05]
# Which layers, as a regular expression: attention and MLP of the language model, not the vision encoder.
add lora_target_modules "${LORA_TARGETS:-}" ".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"

exec bash "$(dirname "${BASH_SOURCE[0]}")/run_grpo_vision_zero.sh" "${lora[@]}" "$@"

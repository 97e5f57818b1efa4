#!/usr/bin/env bash
# Train LoRA adapters on one GPU: run_grpo_vision_zero.sh with other options and no DeepSpeed.
#
#   IMAGES_DIR=my/images bash run_scripts/run_lora_1gpu.sh [any option of python -m vision_zero.train]
#
# Every variable of run_grpo_vision_zero.sh works here too (RESUME=1, DRY_RUN=1, RUN_NAME=...), and its options stand
# where none is named here. GPU_GB=24, 48 or 80 sets batches and size of images to what `python -m vision_zero.plan`
# finds to fit such a card, and refuses a model that does not. The values are this repository's choices for one large GPU, [ours]: the paper trains all
# weights on 8 GPUs and says nothing about LoRA.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

export VISION_ZERO_SCRIPT=run_lora_1gpu.sh
asks_to_resume "$@"
if [ "$RESUME" = 0 ] || ! grep -qs '^use_cpu: true' "${OUTPUT_BASE_DIR:-$root/runs}/${RUN_NAME:-}/config.yaml"; then
    export NUM_GPUS="${NUM_GPUS:-1}"                    # 0 runs on the CPU, as does a run that was begun there
fi
export DEEPSPEED="${DEEPSPEED:-none}"                   # ZeRO has nothing to share out on one GPU

options=(
    --use_peft true                                     # adapters instead of all weights
    --lora_r 32                                         # rank of the adapters [TRL: 16]
    --lora_alpha 64                                     # scale: adapters count lora_alpha / lora_r [TRL: 32]
    --lora_dropout 0.0                                  # with dropout, training would not see the policy that played [TRL: 0.05]
    --lora_target_modules language                      # all linear layers of the language model, none of the encoder;
                                                        # or their names, or a regular expression [TRL: by PEFT's lists]
    --dtype bfloat16                                    # of the frozen weights; the adapters are kept in float32
    --games_per_iteration 32                            # [paper: 128]
    --learning_rate 1.0e-4                              # ten times that of full training [not tuned]
    --rollout_batch_size 64                             # completions generated at once; memory only
    --arena_games 40                                    # of each win rate, as much as 3 iterations of rollouts
)

GPU_GB="${GPU_GB:-}"                                    # 24, 48 or 80; empty: the batches above, images as below
has_own=0                                               # a run that is resumed and a --config have options of their own
case "$RESUME $* " in "1 "* | *" --config "* | *" --config="*) has_own=1 ;; esac
if [ -n "$GPU_GB" ]; then
    case "$GPU_GB" in 24 | 48 | 80) ;; *) die "GPU_GB=$GPU_GB must be 24, 48 or 80" ;; esac
    case "$has_own $* " in
        "1 "* | *" --model_name_or_path"*)
            die "GPU_GB plans a new run of MODEL with the options of this script: give no --config, --model_name_or_path or RESUME"
            ;;
    esac
    activate
    planned="$(python -m vision_zero.plan --preset --model "${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}" --train lora --zero 0 \
        --gpus 1 --gpu "$GPU_GB" --games 32 --rollout_batch 64 --max_pixels 401408)" || die "GPU_GB finds no setting (above why): leave it out, or give another MODEL"
    read -ra planned <<<"$planned"
    options+=("${planned[@]}")
fi

if [ "$has_own" = 1 ]; then options=(); fi
exec bash "$root/run_scripts/run_grpo_vision_zero.sh" "${options[@]}" "$@"

#!/usr/bin/env bash
# Train a vision-language model by self-play with Iterative-SPO, on all GPUs of this machine, or of several.
#
#   IMAGES_DIR=my/images bash run_scripts/run_grpo_vision_zero.sh [any option of python -m vision_zero.train]
#   IMAGES_DIR=my/images DRY_RUN=1 bash run_scripts/run_grpo_vision_zero.sh --iterations 50    # check, print the command
#   RUN_NAME=first RESUME=1 bash run_scripts/run_grpo_vision_zero.sh                           # continue that run
#   IMAGES_DIR=data/drawn MODEL=data/tiny_vlm NUM_GPUS=0 bash run_scripts/run_grpo_vision_zero.sh --template compact \
#       --iterations 4 --games_per_iteration 8 --holdout 0.25 --arena_games 8                  # on the CPU
#   NODES=2 NODE_RANK=0 HEAD=node0 RUN_NAME=first ... bash run_scripts/run_grpo_vision_zero.sh # on node0; NODE_RANK=1 on
#                                                                                              # the other; Slurm: slurm.sbatch
#
# The environment sets these variables and no others: IMAGES_DIR SCENES_DIR MODEL OUTPUT_BASE_DIR RUN_NAME RESUME DRY_RUN
# NUM_GPUS NUM_PROCESSES NODES NODE_RANK HEAD DEEPSPEED REPORT_TO WANDB_PROJECT. All else is a flag: change its line in `options`, or give it
# as an argument, which wins. With --config FILE the file takes the place of `options`. A run that is resumed has its own
# options: it gets the arguments, and of the variables those that are set for the command.
#
# Sources of the values: [paper] arXiv 2509.25541, [code] its public repository at commit fa3c01c, [TRL] the library's
# default, [ours] a choice of this repository. `python -m vision_zero.train --help` says what each option means.

set -euo pipefail
# shellcheck source=run_scripts/training.sh
source "$(dirname "${BASH_SOURCE[0]}")/training.sh"

IMAGES_DIR="${IMAGES_DIR:-}"                            # required: a folder, manifest, data set or drawn:COUNT; several with commas
SCENES_DIR="${SCENES_DIR:-}"                            # NAME_comparison.json of a folder of edited pairs, if any
MODEL="${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}"           # a folder, or a name on the Hub [paper]
OUTPUT_BASE_DIR="${OUTPUT_BASE_DIR:-$root/runs}"        # the run's folder is OUTPUT_BASE_DIR/RUN_NAME
RUN_NAME="${RUN_NAME:-}"                                # empty: model and time
RESUME="${RESUME:-0}"                                   # 1: continue RUN_NAME from its last complete checkpoint
DRY_RUN="${DRY_RUN:-0}"                                 # 1: check, print the command and stop
NUM_GPUS="${NUM_GPUS:-}"                                # empty: all of this machine [paper: 8 x A100-80GB]; 0: train on the CPU
NUM_PROCESSES="${NUM_PROCESSES:-}"                      # empty: one per GPU, or one on the CPU (2 and more talk over gloo)
NODES="${NODES:-1}"                                     # machines; NUM_GPUS and NUM_PROCESSES are those of each
NODE_RANK="${NODE_RANK:-}"                              # which of them this is, from 0; needed with NODES above 1
HEAD="${HEAD:-}"                                        # address of node 0 as the others reach it, HOST or HOST:PORT (29500)
DEEPSPEED="${DEEPSPEED:-}"                              # a JSON file, or none; empty: ZeRO-3 on GPUs, none on the CPU [ours]
REPORT_TO="${REPORT_TO:-wandb}"                         # wandb, tensorboard, none; wandb is offline without a key [ours]
WANDB_PROJECT="${WANDB_PROJECT:-vision-zero}"           # where wandb lists the run [ours]

options=(
    # the game
    --civilians 4                                       # n_c, beside one spy [paper; code: 3]
    --rounds 2                                          # clue rounds [paper, code]
    --spy_view auto                                     # blank [paper v2], edited [paper v1, code], masked; auto: edited where there is one [ours]
    --voter observer                                    # observer [code, paper's appendix] or civilian [paper's text]
    --template auto                                     # wording: auto (the pair's domain), scenes, charts, photos, compact, or a file [ours]
    --max_pixels 401408                                 # of an image: 512 tokens of a Qwen2.5-VL, enough to read a chart; a photograph
                                                        # of 12 megapixels would have 15,301 [ours; paper: 76800 for CLEVR scenes]
    --seed 42                                           # of deals, masks and sampled tokens [TRL]
    # the loop
    --iterations 100                                    # play, update, decide the next stage [paper; code: 280]
    --games_per_iteration 128                           # over all processes [paper; code: 64]
    --num_generations 8                                 # votes per game, G [paper]
    --updates_per_iteration 1                           # optimizer steps per iteration; 1 is on-policy [ours]
    --schedule iterative                                # iterative [paper], decision, clue, cycle [code]
    # rewards and role advantage estimation
    --reward_beta 0.1                                   # clue reward, votes between spy and civilians: beta [paper]
    --reward_lambda 0.1                                 # clue reward, a civilian's own votes: lambda [paper]
    --na_reward -0.5                                    # decision reward of N/A [paper]
    --format_weight 0.0                                 # weight of the format reward, +-1 for a parsed completion or not [paper]
    --rae_alpha 0.95                                    # decay of the role baselines [paper; code: 0.9]; 1 turns them off
    --rae_update iteration                              # baselines move once per iteration [ours] or per game
    --rae_subtract after                                # subtract the baseline after its update [paper] or before
    --rae_stages clue                                   # baselines move in the clue stage [paper] or always [code]
    # the stage switch
    --rho 0.95                                          # decay of the averages of accuracy and N/A rate [paper]
    --acc_up 0.9                                        # decision -> clue from this accuracy [paper]
    --na_down 0.1                                       # decision -> clue up to this N/A rate [paper]
    --err_up 0.4                                        # clue -> decision from this error [paper]
    --na_up 0.5                                         # clue -> decision from this N/A rate [paper]
    --k_min 5                                           # iterations a stage lasts at least [paper]
    --patience 20                                       # iterations after which a stage ends in any case [paper]; 0: never
    --debias false                                      # correct the averages for their start at 0 [paper: no]
    --reset_averages false                              # averages restart at a switch [paper: no]
    # sampling
    --temperature 0.8                                   # [code; paper silent]
    --top_k 50                                          # [code: the library's default; paper silent]; 0: all
    --top_p 1.0                                         # [TRL]
    --max_clue_tokens 512                               # longest completion with a clue [paper's command; code: 1024]
    --min_clue_tokens 0                                 # shortest [paper silent; code: 20]
    --max_vote_tokens 512                               # longest completion with a vote [paper's command; code: 1024]
    --min_vote_tokens 0                                 # shortest [paper silent; code: 100]
    --use_vllm auto                                     # true: vLLM plays, false: transformers; auto: vLLM where it and a GPU are there [ours]
    # the objective
    --learning_rate 1.0e-5                              # peak [paper]
    --lr_scheduler_type cosine                          # [paper]
    --warmup_steps 0.1                                  # share of all steps, or steps if 1 or more [paper]
    --beta 0.04                                         # KL to the frozen start model, both stages: tau [paper]
    --loss_type grpo                                    # token average per completion, then over completions: grpo [code]; dapo
    --epsilon 0.2                                       # clipping of the ratio; acts with several updates per iteration only [TRL]
    --max_grad_norm 1.0                                 # gradient clipping [code]
    # memory, not the result
    --per_device_train_batch_size 8                     # completions per forward and backward of a process: the votes of a game [ours]
    --rollout_batch_size 256                            # completions that transformers generates at once in a process [ours]
    --gradient_checkpointing true                       # [paper]
    --attn_implementation sdpa                          # flash_attention_2 [paper] shares no prefixes of prompts
    # the win rate against the frozen start, on pairs that are not trained on
    --holdout 0.1                                       # share of the pairs that is kept out [ours]
    --arena_every 50                                    # iterations from one win rate to the next, and first and last; 0: none [ours]
    --arena_games 100                                   # of each, as much as 2 iterations of rollouts [ours]
    # what is kept
    --save_every 10                                     # iterations between checkpoints [ours]
    --save_total_limit 3                                # newest checkpoints that stay [ours]
    --export_every 0                                    # portable export beside every n-th checkpoint; 0: the last only [ours]
    --record_games_every 1                              # write the games of every n-th iteration; 0: never [ours]
    --on_bad_image stop                                 # a broken image: stop after a checkpoint, or skip [ours]
    --grace 60                                          # seconds an iteration may go on after INT, TERM or USR1, before saving [ours]
)

# ---------------------------------------------------------------------------------------------------------- the command

check_variables "${options[@]}"
asks_to_resume "$@"
activate
choose_machine
command=(python -m vision_zero.train)
if [ "$NODES" -gt 1 ]; then
    command=(torchrun --nnodes "$NODES" --node_rank "$NODE_RANK" --rdzv_backend static --rdzv_endpoint "$HEAD"
        --rdzv_id "$RUN_NAME" --nproc_per_node "$NUM_PROCESSES" -m vision_zero.train)
elif [ "$NUM_PROCESSES" -gt 1 ] || [ "$NUM_GPUS" -gt 0 ]; then
    command=(torchrun --standalone --nproc_per_node "$NUM_PROCESSES" -m vision_zero.train)
fi
if [ "$RESUME" = 0 ]; then
    RUN_NAME="${RUN_NAME:-$(basename "$MODEL")-$(date +%Y%m%d-%H%M%S)}"
    read_preset "$@"
    if [ -z "$preset" ]; then command+=("${options[@]}"); fi
    # Without DeepSpeed's float32 masters, updates of this size would be rounded away in bfloat16 weights [paper: bf16].
    set_by "" dtype "$([ "$DEEPSPEED" = none ] || [ "$NUM_GPUS" = 0 ] && echo float32 || echo bfloat16)"
    set_by "" run_name "$RUN_NAME"
fi
if [ -n "$RUN_NAME" ]; then command+=(--output_dir "$OUTPUT_BASE_DIR/$RUN_NAME"); fi
IFS=, read -ra images <<<"$IMAGES_DIR"
set_by IMAGES_DIR images "${images[@]}"
set_by SCENES_DIR scenes_dir "$SCENES_DIR"
set_by MODEL model_name_or_path "$MODEL"
set_by REPORT_TO report_to "$REPORT_TO"
set_by NUM_GPUS use_cpu "$([ "$NUM_GPUS" != 0 ] || echo true)"
set_by DEEPSPEED deepspeed "${DEEPSPEED#none}"
if [ "$RESUME" = 1 ]; then command+=(--resume true); fi
command+=("$@")
check_command
check_options trl "$processes"
stop_if_dry
say_what_starts
become_command

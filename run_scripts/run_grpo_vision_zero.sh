#!/usr/bin/env bash
# Train a vision-language model by self-play with Iterative-SPO, on all GPUs of this machine.
#
#   IMAGES_DIR=my/images bash run_scripts/run_grpo_vision_zero.sh [any option of python -m vision_zero.train]
#   IMAGES_DIR=my/images RUN_NAME=first RESUME=1 bash run_scripts/run_grpo_vision_zero.sh      # continue that run
#   IMAGES_DIR=my/images DRY_RUN=1 bash run_scripts/run_grpo_vision_zero.sh                    # print the command only
#   IMAGES_DIR=data/drawn MODEL=data/tiny_vlm NUM_GPUS=0 bash run_scripts/run_grpo_vision_zero.sh       # on the CPU
#
# Change a value below, or set it in the environment for one run. Options given as arguments win over both.
# Sources of the values: [paper] arXiv 2509.25541, [code] its public repository at commit fa3c01c, [TRL] the library's
# default, [ours] a choice of this repository. `python -m vision_zero.train --help` says what each option means.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

# ------------------------------------------------------------------------------------------------ images, model, names

IMAGES_DIR="${IMAGES_DIR:-}"                            # required: a folder, manifest, data set or drawn:COUNT; several with commas
SCENES_DIR="${SCENES_DIR:-}"                            # NAME_comparison.json of a folder of edited pairs, if any
IMAGE_COLUMNS="${IMAGE_COLUMNS:-}"                      # data sets only: "IMAGE" or "IMAGE EDITED", if the names are not known ones
HOLDOUT="${HOLDOUT:-0}"                                 # share of the pairs kept out of training [ours]
ON_BAD_IMAGE="${ON_BAD_IMAGE:-stop}"                    # a broken image: stop after a checkpoint, or skip [ours]
MIN_PIXELS="${MIN_PIXELS:-}"                            # images are enlarged to this area; empty: the model's own rule
MAX_PIXELS="${MAX_PIXELS:-}"                            # images are reduced to this area; empty: the model's own rule (320x240 = 76800 for CLEVR [paper])
MODEL="${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}"           # a folder, or a name on the Hub [paper]
OUTPUT_BASE_DIR="${OUTPUT_BASE_DIR:-$root/runs}"        # the run's folder is OUTPUT_BASE_DIR/RUN_NAME
RUN_NAME="${RUN_NAME:-}"                                # empty: model and time
RESUME="${RESUME:-0}"                                   # 1: continue RUN_NAME from its last complete checkpoint; only what is set beside it changes
DRY_RUN="${DRY_RUN:-0}"                                 # 1: check, print the command and stop
SEED="${SEED:-42}"                                      # of deals, masks and sampled tokens [TRL]

# ------------------------------------------------------------------------------------------------------------ the game

CIVILIANS="${CIVILIANS:-4}"                             # n_c, beside one spy [paper; code: 3]
ROUNDS="${ROUNDS:-2}"                                   # clue rounds [paper, code]
SPY_VIEW="${SPY_VIEW:-auto}"                            # blank [paper v2], edited [paper v1, code], masked; auto: edited where there is one [ours]
MASK_SHARE="${MASK_SHARE:-0.5}"                         # SPY_VIEW=masked: hidden share of the image [ours]
VOTER="${VOTER:-observer}"                              # observer [code, paper's appendix] or civilian [paper's text]
TEMPLATE="${TEMPLATE:-auto}"                            # wording: auto (the pair's domain), scenes, charts, photos, compact, or a file [ours]

# ------------------------------------------------------------------------------------------------------------ the loop

ITERATIONS="${ITERATIONS:-100}"                         # play, update, decide the next stage [paper; code: 280]
GAMES="${GAMES:-128}"                                   # per iteration, over all processes [paper; code: 64]
GENERATIONS="${GENERATIONS:-8}"                         # votes per game, G [paper]
UPDATES="${UPDATES:-1}"                                 # optimizer steps per iteration; 1 is on-policy [ours]
SCHEDULE="${SCHEDULE:-iterative}"                       # iterative [paper], decision, clue, cycle [code]
CYCLE_DECISION="${CYCLE_DECISION:-10}"                  # SCHEDULE=cycle: iterations of a decision stage [ours]
CYCLE_CLUE="${CYCLE_CLUE:-10}"                          # SCHEDULE=cycle: iterations of a clue stage [ours]

# ------------------------------------------------------------------------------------------------------ rewards and RAE

REWARD_BETA="${REWARD_BETA:-0.1}"                       # clue reward, votes between spy and civilians: beta [paper]
REWARD_LAMBDA="${REWARD_LAMBDA:-0.1}"                   # clue reward, a civilian's own votes: lambda [paper]
NA_REWARD="${NA_REWARD:--0.5}"                          # decision reward of N/A [paper]
FORMAT_WEIGHT="${FORMAT_WEIGHT:-0}"                     # weight of the format reward, +-1 for a parsed completion or not; 0 [paper]
RAE_ALPHA="${RAE_ALPHA:-0.95}"                          # decay of the role baselines [paper; code: 0.9]; 1 turns them off
RAE_UPDATE="${RAE_UPDATE:-iteration}"                   # baselines move once per iteration [ours] or per game
RAE_SUBTRACT="${RAE_SUBTRACT:-after}"                   # subtract the baseline after its update [paper] or before
RAE_STAGES="${RAE_STAGES:-clue}"                        # baselines move in the clue stage [paper] or always [code]

# --------------------------------------------------------------------------------------------------------- stage switch

RHO="${RHO:-0.95}"                                      # decay of the averages of accuracy and N/A rate [paper]
ACC_UP="${ACC_UP:-0.9}"                                 # decision -> clue from this accuracy [paper]
NA_DOWN="${NA_DOWN:-0.1}"                               # decision -> clue up to this N/A rate [paper]
ERR_UP="${ERR_UP:-0.4}"                                 # clue -> decision from this error [paper]
NA_UP="${NA_UP:-0.5}"                                   # clue -> decision from this N/A rate [paper]
K_MIN="${K_MIN:-5}"                                     # iterations a stage lasts at least [paper]
PATIENCE="${PATIENCE:-20}"                              # iterations after which a stage ends in any case [paper]; 0: never
DEBIAS="${DEBIAS:-false}"                               # correct the averages for their start at 0 [paper: no]
RESET_AVERAGES="${RESET_AVERAGES:-false}"               # averages restart at a switch [paper: no]

# ------------------------------------------------------------------------------------------------- sampling, objective

TEMPERATURE="${TEMPERATURE:-0.8}"                       # [code; paper silent]
TOP_K="${TOP_K:-50}"                                    # [code: the library's default; paper silent]; 0: all
TOP_P="${TOP_P:-1.0}"                                   # [TRL]
MAX_CLUE_TOKENS="${MAX_CLUE_TOKENS:-512}"               # longest completion with a clue [paper's command; code: 1024]
MIN_CLUE_TOKENS="${MIN_CLUE_TOKENS:-0}"                 # shortest [paper silent; code: 20]
MAX_VOTE_TOKENS="${MAX_VOTE_TOKENS:-512}"               # longest completion with a vote [paper's command; code: 1024]
MIN_VOTE_TOKENS="${MIN_VOTE_TOKENS:-0}"                 # shortest [paper silent; code: 100]
LEARNING_RATE="${LEARNING_RATE:-1e-5}"                  # peak [paper]
LR_SCHEDULER="${LR_SCHEDULER:-cosine}"                  # [paper]
WARMUP="${WARMUP:-0.1}"                                 # share of all steps, or steps if 1 or more [paper]
KL_WEIGHT="${KL_WEIGHT:-0.04}"                          # KL to the frozen start model, both stages: tau [paper]
KL_CLUE="${KL_CLUE:-}"                                  # clue stage alone; empty: KL_WEIGHT [paper]
KL_DECISION="${KL_DECISION:-}"                          # decision stage alone; empty: KL_WEIGHT [paper]
LOSS_TYPE="${LOSS_TYPE:-grpo}"                          # token average per completion, then over completions: grpo [code]; dapo
CLIP_EPSILON="${CLIP_EPSILON:-0.2}"                     # clipping of the ratio; acts with UPDATES > 1 only [TRL]
MAX_GRAD_NORM="${MAX_GRAD_NORM:-1.0}"                   # gradient clipping [code]

# --------------------------------------------------------------------------------------------------------- the machine

NUM_GPUS="${NUM_GPUS:-$(count_gpus)}"                   # all of this machine; 0: train on the CPU [paper: 8 x A100-80GB]
NUM_PROCESSES="${NUM_PROCESSES:-}"                      # empty: one per GPU, or one on the CPU (2 and more talk over gloo)
DEEPSPEED="${DEEPSPEED:-}"                              # a JSON file, or none; empty: ZeRO-3 on GPUs, none on the CPU [ours]
MICRO_BATCH="${MICRO_BATCH:-4}"                         # completions per forward and backward pass of a process; memory only, not the result [ours]
ROLLOUT_BATCH="${ROLLOUT_BATCH:-256}"                   # completions a process generates at once; memory only [ours]
DTYPE="${DTYPE:-}"                                      # of the weights; empty: bfloat16 with DeepSpeed (float32 masters) [paper: bf16], else float32
ATTENTION="${ATTENTION:-}"                              # empty: FlashAttention-2 where installed [paper], else sdpa
GRADIENT_CHECKPOINTING="${GRADIENT_CHECKPOINTING:-true}" # [paper]

# ------------------------------------------------------------------------------------------------------- what is kept

SAVE_EVERY="${SAVE_EVERY:-10}"                          # iterations between checkpoints [ours]
GRACE="${GRACE:-60}"                                    # seconds an iteration may go on after INT, TERM or USR1, before saving [ours]
KEEP_CHECKPOINTS="${KEEP_CHECKPOINTS:-3}"               # newest checkpoints that stay [ours]
EXPORT_EVERY="${EXPORT_EVERY:-0}"                       # portable export beside every n-th checkpoint; 0: the last only [ours]
RECORD_GAMES_EVERY="${RECORD_GAMES_EVERY:-1}"           # write the games of every n-th iteration; 0: never [ours]
REPORT_TO="${REPORT_TO:-wandb}"                         # wandb, tensorboard, none; wandb is offline without a key [ours]
WANDB_PROJECT="${WANDB_PROJECT:-vision-zero}"           # where wandb lists the run [ours]

# ---------------------------------------------------------------------------------------------------------------- check

[ -n "$IMAGES_DIR" ] || [ "$RESUME" = 1 ] || die "set IMAGES_DIR to your images, e.g. IMAGES_DIR=$root/data/photos (layouts: docs/data.md)"
[[ "$IMAGES_DIR" != *$'\n'* ]] || die "IMAGES_DIR has a line break; write its sources on one line, with commas between"
IFS=, read -ra images <<<"$IMAGES_DIR"
for source in "${images[@]}"; do
    if [[ "$source" == drawn:* ]]; then continue; fi # drawn when opened: no files
    path="$source"
    # A domain is the name of its template file.
    if [ -f "$root/src/vision_zero/game/templates/${source%%:*}.txt" ]; then path="${source#*:}"; fi
    [ -e "$path" ] || die "IMAGES_DIR: $path does not exist"
done
[ -z "$SCENES_DIR" ] || [ -d "$SCENES_DIR" ] || die "SCENES_DIR: $SCENES_DIR is not a folder"
case "$MODEL" in
    /* | ./* | ../* | data/*) [ -f "$MODEL/config.json" ] || die "MODEL: $MODEL holds no model (no config.json)" ;;
esac
for name in NUM_GPUS NUM_PROCESSES SAVE_EVERY UPDATES; do
    [[ "${!name}" =~ ^[0-9]+$ || "$name=${!name}" == NUM_PROCESSES= ]] || die "$name=${!name} is not a number"
done

if [ "$NUM_GPUS" = 0 ]; then
    NUM_PROCESSES="${NUM_PROCESSES:-1}" DEEPSPEED="${DEEPSPEED:-none}" ATTENTION="${ATTENTION:-sdpa}"
else
    NUM_PROCESSES="${NUM_PROCESSES:-$NUM_GPUS}" DEEPSPEED="${DEEPSPEED:-$root/configs/deepspeed/zero3.json}"
fi
[ "$DEEPSPEED" = none ] || [ -f "$DEEPSPEED" ] || die "DEEPSPEED: $DEEPSPEED is not a file (or write none)"
if [ -z "$DTYPE" ]; then
    # Without DeepSpeed's float32 masters, updates of this size would be rounded away in bfloat16 weights.
    if [ "$DEEPSPEED" = none ] || [ "$NUM_GPUS" = 0 ]; then DTYPE=float32; else DTYPE=bfloat16; fi
fi
if [ "$RESUME" = 1 ]; then
    [ -n "$RUN_NAME" ] || die "RESUME=1 needs the RUN_NAME of the run to continue"
    [ -d "$OUTPUT_BASE_DIR/$RUN_NAME" ] || die "RESUME=1, but there is no run $OUTPUT_BASE_DIR/$RUN_NAME"
    if [[ "$given" == *" SAVE_EVERY "* && "$given" != *" UPDATES "* ]]; then
        UPDATES="$(sed -n 's/^updates_per_iteration: //p' "$OUTPUT_BASE_DIR/$RUN_NAME/config.yaml")"
    fi
else
    RUN_NAME="${RUN_NAME:-$(basename "$MODEL")-$(date +%Y%m%d-%H%M%S)}"
    if holds_a_run "$OUTPUT_BASE_DIR/$RUN_NAME"; then
        die "$OUTPUT_BASE_DIR/$RUN_NAME holds a run already; continue it with RESUME=1, or choose another RUN_NAME"
    fi
fi
output_dir="$OUTPUT_BASE_DIR/$RUN_NAME"

# ----------------------------------------------------------------------------------------------------------- the command

command=(python -m vision_zero.train)
if [ "$NUM_PROCESSES" -gt 1 ] || [ "$NUM_GPUS" -gt 0 ]; then
    command=(torchrun --standalone --nproc_per_node "$NUM_PROCESSES" -m vision_zero.train)
fi
command+=(--output_dir "$output_dir")
set_by IMAGES_DIR --images "${images[@]}"
set_by HOLDOUT --holdout "$HOLDOUT"
set_by ON_BAD_IMAGE --on_bad_image "$ON_BAD_IMAGE"
set_by MODEL --model_name_or_path "$MODEL"
set_by RUN_NAME --run_name "$RUN_NAME"
set_by SEED --seed "$SEED"
set_by CIVILIANS --civilians "$CIVILIANS"
set_by ROUNDS --rounds "$ROUNDS"
set_by SPY_VIEW --spy_view "$SPY_VIEW"
set_by MASK_SHARE --mask_share "$MASK_SHARE"
set_by VOTER --voter "$VOTER"
set_by TEMPLATE --template "$TEMPLATE"
set_by ITERATIONS --iterations "$ITERATIONS"
set_by GAMES --games_per_iteration "$GAMES"
set_by GENERATIONS --num_generations "$GENERATIONS"
set_by UPDATES --updates_per_iteration "$UPDATES"
set_by SCHEDULE --schedule "$SCHEDULE"
set_by CYCLE_DECISION --cycle_decision "$CYCLE_DECISION"
set_by CYCLE_CLUE --cycle_clue "$CYCLE_CLUE"
set_by REWARD_BETA --reward_beta "$REWARD_BETA"
set_by REWARD_LAMBDA --reward_lambda "$REWARD_LAMBDA"
set_by NA_REWARD --na_reward "$NA_REWARD"
set_by FORMAT_WEIGHT --format_weight "$FORMAT_WEIGHT"
set_by RAE_ALPHA --rae_alpha "$RAE_ALPHA"
set_by RAE_UPDATE --rae_update "$RAE_UPDATE"
set_by RAE_SUBTRACT --rae_subtract "$RAE_SUBTRACT"
set_by RAE_STAGES --rae_stages "$RAE_STAGES"
set_by RHO --rho "$RHO"
set_by ACC_UP --acc_up "$ACC_UP"
set_by NA_DOWN --na_down "$NA_DOWN"
set_by ERR_UP --err_up "$ERR_UP"
set_by NA_UP --na_up "$NA_UP"
set_by K_MIN --k_min "$K_MIN"
set_by PATIENCE --patience "$PATIENCE"
set_by DEBIAS --debias "$DEBIAS"
set_by RESET_AVERAGES --reset_averages "$RESET_AVERAGES"
set_by TEMPERATURE --temperature "$TEMPERATURE"
set_by TOP_K --top_k "$TOP_K"
set_by TOP_P --top_p "$TOP_P"
set_by MAX_CLUE_TOKENS --max_clue_tokens "$MAX_CLUE_TOKENS"
set_by MIN_CLUE_TOKENS --min_clue_tokens "$MIN_CLUE_TOKENS"
set_by MAX_VOTE_TOKENS --max_vote_tokens "$MAX_VOTE_TOKENS"
set_by MIN_VOTE_TOKENS --min_vote_tokens "$MIN_VOTE_TOKENS"
set_by LEARNING_RATE --learning_rate "$LEARNING_RATE"
set_by LR_SCHEDULER --lr_scheduler_type "$LR_SCHEDULER"
set_by WARMUP --warmup_steps "$WARMUP"
set_by KL_WEIGHT --beta "$KL_WEIGHT"
set_by LOSS_TYPE --loss_type "$LOSS_TYPE"
set_by CLIP_EPSILON --epsilon "$CLIP_EPSILON"
set_by MAX_GRAD_NORM --max_grad_norm "$MAX_GRAD_NORM"
set_by MICRO_BATCH --per_device_train_batch_size "$MICRO_BATCH"
set_by ROLLOUT_BATCH --rollout_batch_size "$ROLLOUT_BATCH"
set_by DTYPE --dtype "$DTYPE"
set_by GRADIENT_CHECKPOINTING --gradient_checkpointing "$GRADIENT_CHECKPOINTING"
set_by SAVE_EVERY --save_steps "$((10#$SAVE_EVERY * 10#$UPDATES))"
set_by KEEP_CHECKPOINTS --save_total_limit "$KEEP_CHECKPOINTS"
set_by EXPORT_EVERY --export_every "$EXPORT_EVERY"
set_by RECORD_GAMES_EVERY --record_games_every "$RECORD_GAMES_EVERY"
set_by REPORT_TO --report_to "$REPORT_TO"
option scenes_dir "$SCENES_DIR"
options columns "$IMAGE_COLUMNS"
option min_pixels "$MIN_PIXELS"
option max_pixels "$MAX_PIXELS"
set_by GRACE --grace "$GRACE"
option kl_clue "$KL_CLUE"
option kl_decision "$KL_DECISION"
if [ -n "$ATTENTION" ]; then set_by ATTENTION --attn_implementation "$ATTENTION"; fi
if [ "$NUM_GPUS" = 0 ]; then set_by NUM_GPUS --use_cpu true; fi
if [ "$DEEPSPEED" != none ]; then set_by DEEPSPEED --deepspeed "$DEEPSPEED"; fi
if [ "$RESUME" = 1 ]; then command+=(--resume true); fi
command+=("$@")

stop_if_dry

# ----------------------------------------------------------------------------------------------------------------- run

activate
if [ "$NUM_GPUS" -gt 0 ]; then
    found="$(count_gpus)"
    [ "$found" -ge "$NUM_GPUS" ] || die "NUM_GPUS=$NUM_GPUS, but this machine shows $found; NUM_GPUS=0 trains on the CPU"
fi
export TRL_EXPERIMENTAL_SILENCE=1 # rollout_func is marked experimental; TRL is pinned
mkdir -p "$OUTPUT_BASE_DIR"
tracker="$REPORT_TO"
if [[ "$REPORT_TO" == *wandb* ]]; then
    export WANDB_PROJECT WANDB_DIR="${WANDB_DIR:-$OUTPUT_BASE_DIR}"
    export WANDB_DATA_DIR="${WANDB_DATA_DIR:-$WANDB_DIR/wandb/data}" # images of games, which a later sync needs
    if [ -z "${WANDB_MODE:-}" ] && [ -z "${WANDB_API_KEY:-}" ] &&
        ! grep -qs 'api\.wandb\.ai' "${NETRC:-${HOME:-}/.netrc}"; then
        export WANDB_MODE=offline
    fi
    tracker="$REPORT_TO (${WANDB_MODE:-online}) in $WANDB_DIR/wandb"
fi
if [ "$RESUME" = 1 ]; then
    echo "continuing $output_dir with the options of its config.yaml, and what was set for this command"
    exec "${command[@]}"
fi
cat <<REPORT
run          $output_dir
images       $IMAGES_DIR
model        $MODEL
processes    $NUM_PROCESSES on $([ "$NUM_GPUS" = 0 ] && echo "the CPU" || echo "$NUM_GPUS GPUs"), DeepSpeed: $DEEPSPEED
curves       $output_dir/metrics.jsonl; tracker: $tracker
games        $output_dir/games/
checkpoints  $output_dir/checkpoint-N every $SAVE_EVERY iterations, the last with export/
afterwards   python -m vision_zero.report $output_dir --summary
             python -m vision_zero.report $output_dir
REPORT
become_command

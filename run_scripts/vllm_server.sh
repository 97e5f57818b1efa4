#!/usr/bin/env bash
# Serve a model with vLLM for training in vllm_mode=server. Start it first, on GPUs that do not train (docs/training.md).
#
#   CUDA_VISIBLE_DEVICES=4,5,6,7 bash run_scripts/vllm_server.sh [any option of vllm serve]
#   DRY_RUN=1 bash run_scripts/vllm_server.sh                      # check, print the command and stop
#
# Then, on the other GPUs of this machine:
#
#   CUDA_VISIBLE_DEVICES=0,1,2,3 IMAGES_DIR=my/images bash run_scripts/run_grpo_vision_zero.sh \
#       --use_vllm true --vllm_mode server
#
# Training LoRA adapters, give this --enable-lora --max-lora-rank 32 (vLLM takes 1, 8, 16, 32, 64, 128, 256, 320 and 512,
# at least the run's --lora_r): it loads the adapters alone, from the run's folder, which it must see at the same path.
#
# For several servers start one each, and name them all: --vllm_server_base_url http://HOST:PORT,http://HOST:PORT.
#
# The environment sets MODEL, MIN_PIXELS, MAX_PIXELS, NUM_GPUS, HOST, PORT and DRY_RUN; all else is a flag: change its line
# in `options`, or give it as an argument, which wins. Sources of the values: [vLLM] the default of vLLM 0.31, [TRL] that
# of TRL 1.16, [ours] a choice of this repository.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

MODEL="${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}" # the training's model; its weights are replaced by those that train
MIN_PIXELS="${MIN_PIXELS:-}"                  # the training's --min_pixels; empty: the model's own rule
MAX_PIXELS="${MAX_PIXELS:-}"                  # the training's --max_pixels; empty: the model's own rule
NUM_GPUS="${NUM_GPUS:-}"                      # empty: all that it sees, tensor-parallel [ours; vLLM: 1]; 0: the CPU, where only tests can send weights
HOST="${HOST:-127.0.0.1}"                     # who may ask: this machine alone [ours]; what changes weights has no password [vLLM: all]
PORT="${PORT:-8000}"                          # the training's --vllm_server_port [vLLM, TRL]
DRY_RUN="${DRY_RUN:-0}"                       # 1: check, print the command and stop

options=(
    --max-num-seqs 256                        # completions it works on at once [ours]
    --max-model-len auto                      # longest prompt and completion together: the model's own, as far as memory allows [ours]
    --generation-config vllm                  # what is not asked for is vLLM's default, not the model's
    --limit-mm-per-prompt '{"image": 1, "video": 0}'
    --logprobs-mode raw_logprobs
    --worker-extension-cls vision_zero.rollout.vllm.temperature.TemperatureWorker
    --enable-scale-out                        # token ids in, token ids out
    --enable-prompt-tokens-details            # how much of a prompt was in the prefix cache
)
gpu_options=(
    --dtype bfloat16                          # as training [ours]
    --gpu-memory-utilization 0.9              # share of each GPU's memory [vLLM: 0.92]
    --weight-transfer-config '{"backend": "nccl"}'
)
FORMER="GPU_MEMORY:gpu_memory_utilization EAGER:enforce_eager"

# ---------------------------------------------------------------------------------------------------------------- check

check_variables "${options[@]}" "${gpu_options[@]}"
check_model MODEL "$MODEL"
found="$(count_gpus)" asked="$NUM_GPUS" NUM_GPUS="${NUM_GPUS:-$(count_gpus)}"
check_numbers NUM_GPUS MIN_PIXELS MAX_PIXELS
check_gpus "$found" "$asked" serves

# ---------------------------------------------------------------------------------------------------------- the command

# What `vllm serve` runs. The command itself asks for a package named vllm, which the CPU build is not.
command=(python -m vllm.entrypoints.launchers.api_server.entry --model "$MODEL" --host "$HOST" --port "$PORT")
command+=("${options[@]}")
size=()
if [ -n "$MIN_PIXELS" ]; then size+=("\"min_pixels\": $MIN_PIXELS"); fi
if [ -n "$MAX_PIXELS" ]; then size+=("\"max_pixels\": $MAX_PIXELS"); fi
if [ "${#size[@]}" -gt 0 ]; then
    joined="$(IFS=,; echo "${size[*]}")"
    command+=(--mm-processor-kwargs "{$joined}")
fi
if [ "$NUM_GPUS" = 0 ]; then
    command+=(--dtype float32 --enforce-eager)
else
    command+=(--tensor-parallel-size "$NUM_GPUS" "${gpu_options[@]}")
fi
command+=("$@")

variables=(VLLM_SERVER_DEV_MODE=1) # the calls that give it new weights and drop its caches
case " $* " in *" --enable-lora"*) variables+=(VLLM_ALLOW_RUNTIME_LORA_UPDATING=1) ;; esac # a run's adapters
check_options vllm
stop_if_dry

# ------------------------------------------------------------------------------------------------------------------ run

activate
if [ "$NUM_GPUS" = 0 ]; then
    export VLLM_CPU_KVCACHE_SPACE="${VLLM_CPU_KVCACHE_SPACE:-1}" VLLM_CPU_OMP_THREADS_BIND=nobind TORCH_COMPILE_DISABLE=1
fi
become_command

#!/usr/bin/env bash
# Score a trained model and its base on the paper's benchmarks, in one run, with the paired differences.
#
#   MODEL=runs/mine bash run_scripts/eval_vlmevalkit.sh [any option of python -m vision_zero.evaluate vlmevalkit]
#   DRY_RUN=1 MODEL=runs/mine bash run_scripts/eval_vlmevalkit.sh      # check, print the command and stop; --dry_run: the plan
#
# Once before: bash run_scripts/setup_vlmevalkit.sh. Change a value below, or set it in the environment. Options given
# as arguments win over both. A second run goes on where the first one stopped. Sources of the values: [VLMEvalKit] its
# own table for Qwen2.5-VL, [ours] a choice of this repository. What needs a judge, and what comes out:
# docs/evaluation.md.

set -euo pipefail
# shellcheck source=run_scripts/launch.sh
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"

# -------------------------------------------------------------------------------------------------------------- models

MODEL="${MODEL:-}"                      # run folder (its last checkpoint), checkpoint, export; several with spaces
BASE="${BASE:-}"                        # what it is compared with; empty: the model that training began with
OUT="${OUT:-runs/benchmarks}"           # scores, logs, result.json [ours]

# ---------------------------------------------------------------------------------------------------------- benchmarks

TOOL="${TOOL:-vlmevalkit}"              # or lmms-eval
BENCHMARKS="${BENCHMARKS:-no-judge}"    # names of the tool; VLMEvalKit: also no-judge (13 of the paper's), paper (all 19)
LIMIT="${LIMIT:-}"                      # only the first so many questions of each; empty: all
DATA_DIR="${DATA_DIR:-}"                # VLMEvalKit's data folder; empty: LMUData in the home folder [VLMEvalKit]
JUDGE_MODEL="${JUDGE_MODEL:-}"          # who reads answers where rules cannot; empty: no such benchmarks
JUDGE_URL="${JUDGE_URL:-}"              # a local judge's address, such as http://127.0.0.1:8001/v1; empty: OpenAI's

# --------------------------------------------------------------------------------------------------------- how to answer

MIN_PIXELS="${MIN_PIXELS:-}"            # empty: 1003520 for Qwen [VLMEvalKit], other families their own
MAX_PIXELS="${MAX_PIXELS:-}"            # empty: 12845056 for Qwen [VLMEvalKit], other families their own
MAX_NEW_TOKENS="${MAX_NEW_TOKENS:-2048}" # longest completion [VLMEvalKit]
HOW="${HOW:-auto}"                      # direct (VLMEvalKit's own class, GPU) or served (a local API); auto: what can be
MAX_BATCH="${MAX_BATCH:-16}"            # requests that a served model answers at once [ours]
USE_CPU="${USE_CPU:-0}"                 # 1: do not use a GPU
DRY_RUN="${DRY_RUN:-0}"                 # 1: check, print the command and stop

# ------------------------------------------------------------------------------------------------------------------ run

[ -n "$MODEL" ] || die "MODEL is empty: set it to a run folder, a checkpoint, an export or a model"
read -ra models <<<"$MODEL"
read -ra benchmarks <<<"$BENCHMARKS"
for model in "${models[@]}"; do
    if [ ! -f "$model/config.yaml" ]; then check_model MODEL "$model"; fi # that of a run
done
check_numbers LIMIT MAX_NEW_TOKENS MAX_BATCH
command=(python -m vision_zero.evaluate vlmevalkit "${models[@]}" --with "$TOOL" --benchmarks "${benchmarks[@]}" --out "$OUT")
option base "$BASE"
option limit "$LIMIT"
option data_dir "$DATA_DIR"
option judge_model "$JUDGE_MODEL"
option judge_url "$JUDGE_URL"
option min_pixels "$MIN_PIXELS"
option max_pixels "$MAX_PIXELS"
command+=(--max_new_tokens "$MAX_NEW_TOKENS" --how "$HOW" --max_batch "$MAX_BATCH")
if [ "$USE_CPU" = 1 ]; then command+=(--use_cpu); fi
command+=("$@")

check_options
stop_if_dry
activate
exec "${command[@]}"

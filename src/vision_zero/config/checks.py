"""Checks of options before anything slow starts; every error names the value and the alternative."""

from __future__ import annotations

import math
from dataclasses import fields
from importlib.util import find_spec
from typing import TYPE_CHECKING

from transformers import IntervalStrategy
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

if TYPE_CHECKING:
    from trl import GRPOConfig

LOSS_TYPES = ("grpo", "dapo")
LEAST = {
    **dict.fromkeys(("iterations", "games_per_iteration", "updates_per_iteration", "num_iterations"), 1),
    **dict.fromkeys(("per_device_train_batch_size", "rollout_batch_size", "save_steps", "save_total_limit"), 1),
    **dict.fromkeys(
        ("export_every", "record_games_every", "wandb_games", "arena_every", "beta", "kl_clue", "kl_decision"), 0
    ),
    "grace": 0,
    **dict.fromkeys(("vllm_max_num_seqs", "vllm_block_size", "vllm_tensor_parallel_size", "vllm_request_timeout"), 1),
    "learning_rate": 0,
    "max_logp_difference": 0,
    "logprob_tokens": 1,
    "num_generations": 2,
}
"""Smallest allowed values. A group of one vote has no advantage."""
NOT_USED = {
    **dict.fromkeys(
        ("min_p", "repetition_penalty", "generation_kwargs", "cache_implementation"),
        "games are sampled by temperature, top_k and top_p",
    ),
    "reward_weights": "use format_weight",
    "vllm_structured_outputs_regex": "completions are free text",
    "resume_from_checkpoint": "--resume continues from the last complete checkpoint of output_dir",
    "save_only_model": "a checkpoint is there to be resumed; its export/ holds the model alone",
    "ignore_data_skip": "a resumed run would play the games of its beginning again",
}
"""Options of TRL that this trainer would ignore or that would break it, each with the alternative."""
MUST_STAY_FALSE = {
    **dict.fromkeys(("shuffle_dataset", "remove_unused_columns"), "games are dealt in order"),
    "logging_nan_inf_filter": "a loss that is not finite stops the run",
}
VLLM_CHOICES = {
    "vllm_mode": ("colocate", "server"),
    "vllm_dtype": (None, "auto", "float32", "bfloat16", "float16"),
    "vllm_model_impl": ("vllm", "auto", "transformers"),
    "vllm_importance_sampling_mode": ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"),
}
OF_THE_SERVER = {
    "vllm_dtype": "DTYPE",
    "vllm_enforce_eager": "EAGER",
    "vllm_gpu_memory_utilization": "GPU_MEMORY",
    "vllm_max_model_length": "MAX_MODEL_LEN",
    **dict.fromkeys(("vllm_block_size", "vllm_enable_sleep_mode", "vllm_model_impl"), "an option of vllm serve"),
}
"""Options of an engine in this process, each with its equivalent for run_scripts/vllm_server.sh."""


def check_options(args: GRPOConfig) -> None:
    """Raises ValueError, with name and value, for an option that would not have its documented effect."""
    for one in fields(args):
        if isinstance(number := getattr(args, one.name), float) and not math.isfinite(number):
            raise ValueError(f"{one.name}={number} must be a finite number")
    for name, least in LEAST.items():
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if args.save_steps != int(args.save_steps):
        raise ValueError(f"save_steps={args.save_steps} must be a whole number of optimizer steps")
    for name, instead in NOT_USED.items():
        if getattr(args, name) != args.__dataclass_fields__[name].default:
            raise ValueError(f"{name}={getattr(args, name)} is not supported: {instead}")
    if IntervalStrategy(args.logging_strategy) is not IntervalStrategy.STEPS:
        raise ValueError("logging_strategy must be steps: metrics.jsonl is what is left of a run")
    if args.loss_type not in LOSS_TYPES:
        raise ValueError(f"loss_type={args.loss_type!r} is not supported; use one of {', '.join(LOSS_TYPES)}")
    if args.scale_rewards not in ("group", "none"):
        raise ValueError(f"scale_rewards={args.scale_rewards!r} is not supported; use group (paper) or none")
    if args.multi_objective_aggregation != "sum_then_normalize":
        raise ValueError(
            f"multi_objective_aggregation={args.multi_objective_aggregation!r} would change the normalisation of "
            "the votes; use sum_then_normalize"
        )
    _check_trackers(args)
    if args.use_vllm:
        _check_vllm(args)
    if IntervalStrategy(args.eval_strategy) is not IntervalStrategy.NO:
        raise ValueError(
            f"eval_strategy={IntervalStrategy(args.eval_strategy).value} would move the stage averages; "
            "evaluate its checkpoints in a run of their own"
        )
    if args.max_completion_length is not None:
        raise ValueError(
            f"max_completion_length={args.max_completion_length} is not used; set max_clue_tokens and max_vote_tokens"
        )
    for name, reason in MUST_STAY_FALSE.items():
        if getattr(args, name):
            raise ValueError(f"{name}={getattr(args, name)} must stay False: {reason}")
    if args.arena_games < 4 or args.arena_games % 2:
        raise ValueError(f"arena_games={args.arena_games} must be even and at least 4: every deal is played twice")
    if args.temperature <= 0:
        raise ValueError(f"temperature={args.temperature} must be positive: sampled completions are what is trained on")
    if args.train_stages == "both" and args.kl_weight("clue") != args.kl_weight("decision"):
        raise ValueError(
            f"train_stages=both has rows of both stages in one batch, which has one KL weight: kl_clue="
            f"{args.kl_weight('clue')} and kl_decision={args.kl_weight('decision')} must be equal"
        )


def _check_trackers(args: GRPOConfig) -> None:
    for name in [args.report_to] if isinstance(args.report_to, str) else args.report_to or []:
        if name in ("all", "none"):
            continue
        if name not in INTEGRATION_TO_CALLBACK:
            raise ValueError(
                f"report_to={name} is not known; trackers are {', '.join(sorted(INTEGRATION_TO_CALLBACK))}"
            )
        if name not in get_available_reporting_integrations() and name != "flyte":  # that one says so itself
            raise ValueError(f"report_to={name}: its package is not installed here; install it, or use another tracker")


def _check_vllm(args: GRPOConfig) -> None:
    if find_spec("vllm") is None:
        raise ValueError("use_vllm=True, but vLLM is not installed here: bash setup.sh installs it")
    for name, allowed in VLLM_CHOICES.items():
        if getattr(args, name) not in allowed:
            words = ", ".join(str(one) for one in allowed if one is not None)
            raise ValueError(f"{name}={getattr(args, name)} must be one of {words}")
    if not 0 < args.vllm_gpu_memory_utilization <= 1:
        raise ValueError(f"vllm_gpu_memory_utilization={args.vllm_gpu_memory_utilization} must be a share, up to 1")
    for name in ("vllm_importance_sampling_clip_max", "vllm_max_model_length"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise ValueError(f"{name}={value} must be positive")
    if args.vllm_enable_sleep_mode and args.use_cpu:
        raise ValueError("vllm_enable_sleep_mode=True gives a GPU's memory back; leave it out on a CPU")
    if args.vllm_mode == "server":
        _check_server(args)


def _check_server(args: GRPOConfig) -> None:
    for name in ("vllm_server_port", "vllm_group_port"):
        if not 0 < getattr(args, name) < 65536:
            raise ValueError(f"{name}={getattr(args, name)} must be a port, 1 to 65535")
    if args.vllm_server_timeout <= 0:
        raise ValueError(f"vllm_server_timeout={args.vllm_server_timeout} must be a number of seconds above 0")
    url = args.vllm_server_base_url
    if url is not None and not url.startswith(("http://", "https://")):
        raise ValueError(f"vllm_server_base_url={url} must be http://HOST:PORT")
    for name, instead in OF_THE_SERVER.items():
        if getattr(args, name) != args.__dataclass_fields__[name].default:
            raise ValueError(
                f"{name}={getattr(args, name)} is for vllm_mode=colocate; a server is told when it is started: "
                f"{instead} of run_scripts/vllm_server.sh"
            )

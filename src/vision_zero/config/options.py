"""Options of training, with their meaning and the source of their defaults.

`IterativeSPOConfig` is TRL's `GRPOConfig` with the method's values as defaults and the method's own constants beside
them; `game.GameConfig` has the images and the rules. Both are parsed from flags and YAML alike. Sources: "paper" is
arXiv 2509.25541, "code" its public repository at commit fa3c01c, "TRL" the library's default.
"""

from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Literal

import torch
from torch.distributed.fsdp import MixedPrecisionPolicy
from transformers.trainer_utils import SaveStrategy
from trl import GRPOConfig

from vision_zero import ranks
from vision_zero.config.checks import check_options, read_fsdp_config, server_urls
from vision_zero.config.game import beside, option, option_list
from vision_zero.rollout.policy import TokenLimits, TokenLimitsByStage
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.vllm.client import ServerOptions
from vision_zero.rollout.vllm.requests import EngineOptions
from vision_zero.spo.advantages import RoleBaselines
from vision_zero.spo.controls import RewardControl
from vision_zero.spo.rewards import COMPLETION_REWARDS
from vision_zero.spo.stages import CycleStages, FixedStage, StageSchedule, StageSwitch
from vision_zero.types import Stage

REQUESTS_AT_ONCE = 512
"""To a server from one process, at most, unless vllm_max_num_seqs says so: each holds a connection open."""
LONG: dict[str, str] = beside(__file__)  # meanings that do not fit in the line of their option
DERIVED = (
    *("max_steps", "gradient_accumulation_steps", "steps_per_generation", "generation_batch_size"),
    "max_completion_length",
)
"""TRL's options that follow from the method's and the number of processes."""


@dataclass
class IterativeSPOConfig(GRPOConfig):
    """Iterative-SPO on top of GRPO. An iteration: play `games_per_iteration` games, update, decide the next stage."""

    # The run
    iterations: int = option(100, "Iterations of play and update (paper: 100; code: 280)")
    games_per_iteration: int = option(128, "Games played per iteration over all processes (paper: 128; code: 64)")
    updates_per_iteration: int = option(1, "Optimizer steps per iteration; 1 is on-policy")
    schedule: Literal["iterative", "decision", "clue", "cycle"] = option("iterative", LONG["schedule"])
    train_stages: Literal["active", "both"] = option("active", LONG["train_stages"])
    resume: bool = option(False, LONG["resume"])
    resume_from: int | None = option(None, LONG["resume_from"])
    grace: float = option(60.0, "Seconds the iteration may go on after SIGINT, SIGTERM or SIGUSR1, before saving")
    save_every: int | None = option(None, "Iterations between checkpoints, in place of save_steps; none: save_steps")
    export_every: int = option(0, "Portable export beside every n-th checkpoint; 0: at the end only")
    record_games_every: int = option(1, "Write the games of every n-th iteration to output_dir/games; 0: never")
    wandb_games: int = option(4, LONG["wandb_games"])
    rollout_batch_size: int = option(256, "Completions generated at once by the transformers policy")
    freeze_vision: bool = option(False, LONG["freeze_vision"])
    share_prefixes: bool = option(True, LONG["share_prefixes"])
    logprob_tokens: int = option(16384, LONG["logprob_tokens"])

    # Several processes
    rendezvous_timeout: float = option(60.0, "Seconds in which all processes must have come together at the start")
    ddp_timeout: int = option(1800, LONG["ddp_timeout"])
    fsdp_config: dict[str, Any] | str | None = option(None, LONG["fsdp_config"])

    # Playing with vLLM (--use_vllm true; TRL's options for it and how it works: docs/training.md)
    lock_step: bool = option(False, "Games wait for each other after every turn, as without vLLM; same games, slower")
    vllm_max_num_seqs: int | None = option(None, LONG["vllm_max_num_seqs"].format(most=REQUESTS_AT_ONCE))
    vllm_dtype: str | None = option(None, "Precision of the engine; none: float32 on a CPU, else that of training")
    vllm_enforce_eager: bool = option(False, "No CUDA graphs: less memory, slower; always so on a CPU")
    vllm_block_size: int | None = option(None, "Tokens per block of the engine's cache; none: vLLM's own choice")
    vllm_request_timeout: float = option(300.0, LONG["vllm_request_timeout"])

    # Arena: win rate against the frozen start model while training
    arena_every: int = option(0, LONG["arena_every"])
    arena_games: int = option(200, "Games of each win rate; every deal is played twice, once with each as the spy")
    arena_images: list[str] = option_list(LONG["arena_images"])

    # Past players (not in the paper)
    past_players: float = option(0.0, LONG["past_players"])
    past_role: Literal["voter", "clue", "civilian", "spy"] | None = option(None, LONG["past_role"])
    past_model: str | None = option(None, LONG["past_model"])

    # Rewards (paper, section on strategic self-play; all of these are its table's values)
    reward_beta: float = option(0.1, "Clue reward: weight of the votes between spy and civilians, beta (paper: 0.1)")
    reward_lambda: float = option(0.1, "Clue reward: weight of a civilian's own votes, lambda (paper: 0.1)")
    na_reward: float = option(-0.5, "Decision reward of a vote for N/A (paper: -0.5)")
    format_weight: float = option(0.0, "Weight of the separate +-1 reward for a parsed completion (paper: none)")
    reward_control: RewardControl | None = option(None, LONG["reward_control"])

    # Role advantage estimation
    rae_alpha: float = option(0.95, "Decay of the role baselines, alpha (paper: 0.95; code: 0.9); 1 turns them off")
    rae_update: Literal["iteration", "game"] = option("iteration", LONG["rae_update"])
    rae_subtract: Literal["after", "before"] = option("after", LONG["rae_subtract"])
    rae_stages: Literal["clue", "always"] = option("clue", "Baselines move in the clue stage (paper) or always (code)")

    # Stage switch
    rho: float = option(0.95, "Decay of the averages of accuracy and N/A rate (paper: 0.95)")
    acc_up: float = option(0.9, "decision -> clue at this average accuracy or above (paper: 0.9)")
    na_down: float = option(0.1, "decision -> clue at this average N/A rate or below (paper: 0.1)")
    err_up: float = option(0.4, "clue -> decision at this average error or above (paper: 0.4)")
    na_up: float = option(0.5, "clue -> decision at this average N/A rate or above (paper: 0.5)")
    k_min: int = option(5, "Iterations a stage lasts at least (paper: 5)")
    patience: int = option(20, "Iterations after which a stage ends whatever the rule says (paper: 20); 0: never")
    debias: bool = option(False, "Bias correction of the averages, which start at 0 (paper: no)")
    reset_averages: bool = option(False, "Averages restart at every switch (paper: no)")
    cycle_decision: int = option(10, "schedule=cycle: iterations of each decision stage")
    cycle_clue: int = option(10, "schedule=cycle: iterations of each clue stage")

    # Sampling and KL per stage
    max_clue_tokens: int = option(512, "Longest completion with a clue (paper's command: 512; code: 1024)")
    min_clue_tokens: int = option(0, "Shortest completion with a clue (paper silent; code: 20)")
    max_vote_tokens: int = option(512, "Longest completion with a vote (paper's command: 512; code: 1024)")
    min_vote_tokens: int = option(0, "Shortest completion with a vote (paper silent; code: 100)")
    kl_clue: float | None = option(None, "KL weight of the clue stage; none: beta (paper: 0.04)")
    kl_decision: float | None = option(None, "KL weight of the decision stage; none: beta (paper: 0.04)")

    # Defaults of TRL and transformers that the method sets otherwise
    beta: float = option(0.04, "KL weight of both stages (paper: 0.04; TRL: 0)")
    learning_rate: float = option(1e-5, "Peak learning rate (paper: 1e-5; TRL: 1e-6)")
    lr_scheduler_type: str = option("cosine", "Learning-rate schedule (paper: cosine)")
    warmup_steps: float = option(0.1, "Warm-up, as a share of all steps if below 1 (paper: 0.1)")
    num_generations: int = option(8, "Votes per game, G (paper: 8)")
    temperature: float = option(0.8, "Sampling temperature (code: 0.8; paper silent)")
    top_k: int = option(50, "Sample among the k likeliest tokens (code: the library's 50; paper silent); 0: all")
    loss_type: str = option("grpo", "Token average per completion, then over completions: grpo (code); dapo works too")
    scale_rewards: str = option("group", "Votes of a game are normalised by their own standard deviation (paper)")
    max_grad_norm: float = option(1.0, "Gradient clipping (code: 1.0)")
    max_completion_length: int | None = option(None, "Not used: set max_clue_tokens and max_vote_tokens")
    bf16: bool | None = option(None, "bfloat16 training; none: on a GPU yes, on a CPU no (paper: bf16)")
    shuffle_dataset: bool | None = option(False, "Not used: games are dealt in order, pairs are shuffled per pass")
    remove_unused_columns: bool | None = option(False, "Not used: rows are made by the trainer")
    use_bias_correction_kl: bool = option(False, "Off: the plain k3 estimator of the KL (method)")
    logging_steps: float = option(1, "Log every n optimizer steps")
    logging_nan_inf_filter: bool = option(False, "Not used: a loss that is not finite stops the run (TRL: shown as 0)")

    def __post_init__(self) -> None:
        if self.bf16 is None:
            self.bf16 = torch.cuda.is_available() and not self.use_cpu
        if isinstance(self.report_to, str) and "," in self.report_to:
            self.report_to = self.report_to.split(",")
        self.resume = self.resume or self.resume_from is not None
        if isinstance(self.deepspeed, str) and self.deepspeed and not Path(self.deepspeed).is_file():
            raise ValueError(f"deepspeed={self.deepspeed:.300} is no file; leave it out to train without ZeRO")
        self.fsdp_config = read_fsdp_config(self.fsdp_config)
        check_options(self)
        self.token_limits()
        self.sampling()
        self.make_schedule()
        self.make_baselines()
        processes = ranks.world_size()
        if self.use_vllm and processes % self.vllm_tensor_parallel_size:
            raise ValueError(
                f"vllm_tensor_parallel_size={self.vllm_tensor_parallel_size} processes share an engine, so the number "
                f"of processes, {processes}, must be a multiple of it"
            )
        rows = self.games_per_iteration * self.num_generations
        if self.games_per_iteration % processes:
            raise ValueError(
                f"games_per_iteration={self.games_per_iteration} cannot be shared evenly by {processes} processes; "
                f"use a multiple of {processes}"
            )
        if rows // processes % (self.per_device_train_batch_size * self.updates_per_iteration):
            raise ValueError(
                f"every process has {rows // processes} rows per iteration (games x G / processes), which is not a "
                f"multiple of per_device_train_batch_size={self.per_device_train_batch_size} x "
                f"updates_per_iteration={self.updates_per_iteration}; rows would be dropped"
            )
        steps = rows // processes // self.per_device_train_batch_size
        if self.save_every is not None:  # config.yaml has its outcome alone, so that either can be given at a resume
            self.save_steps, self.save_every = self.save_every * self.optimizer_steps_per_iteration, None
        derived = {
            "gradient_accumulation_steps": (steps // self.updates_per_iteration, 1),
            "steps_per_generation": (steps, None),
            "max_steps": (self.iterations * self.optimizer_steps_per_iteration, -1),
        }
        for name, (value, unset) in derived.items():
            if getattr(self, name) not in (unset, value):
                raise ValueError(
                    f"{name}={getattr(self, name)}, but it follows from the other options and would be {value}; "
                    "leave it out"
                )
            setattr(self, name, value)
        self.generation_batch_size = None
        self.max_completion_length = max(self.max_clue_tokens, self.max_vote_tokens)
        super().__post_init__()
        if self.save_strategy not in (SaveStrategy.NO, SaveStrategy.STEPS):
            raise ValueError(f"save_strategy={self.save_strategy.value} is not supported; use steps or no")
        if self.save_strategy == SaveStrategy.STEPS and self.save_steps % self.optimizer_steps_per_iteration:
            raise ValueError(
                f"save_steps={self.save_steps} falls inside an iteration of {self.optimizer_steps_per_iteration} "
                "optimizer steps, where a run cannot be resumed exactly; use a multiple of it"
            )

    def _process_fsdp_args(self) -> dict[str, Any] | None:
        """accelerate's options of FSDP2, in place of transformers', which overlooks what it does not know."""
        if not isinstance(self.fsdp_config, dict):
            return None
        self.fsdp = True
        # Its own policy would round log-probs and sums of gradients to bfloat16, too.
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if self.bf16 else None
        return {"mixed_precision_policy": policy, **self.fsdp_config}

    @property
    def device(self) -> torch.device:
        """Device of transformers, but a CPU without a number: torch cannot load an optimizer checkpoint to cpu:1."""
        if "_setup_devices" not in vars(self):  # where transformers forms the group
            backend = (self.ddp_backend or "gloo") if self.use_cpu else None
            ranks.join(self.rendezvous_timeout, self.ddp_timeout, backend)
        device = super().device
        return torch.device("cpu") if device.type == "cpu" else device

    @property
    def optimizer_steps_per_iteration(self) -> int:
        return self.updates_per_iteration * self.num_iterations

    @property
    def past_stage(self) -> Stage:
        """The stage in which past players play: the one that trains none of their completions."""
        return "clue" if self.past_role == "voter" else "decision"

    def kl_weight(self, stage: Stage) -> float:
        weight = self.kl_clue if stage == "clue" else self.kl_decision
        return self.beta if weight is None else weight

    def trained_stages(self, stage: Stage) -> tuple[Stage, ...]:
        """The stages whose completions are trained on while `stage` is active."""
        return ("clue", "decision") if self.train_stages == "both" else (stage,)

    def extra_reward_weights(self) -> dict[str, float]:
        """Weights of the COMPLETION_REWARDS, by name."""
        return {name: getattr(self, f"{name}_weight") for name in COMPLETION_REWARDS}

    def token_limits(self) -> TokenLimitsByStage:
        return {
            "clue": TokenLimits(self.min_clue_tokens, self.max_clue_tokens),
            "decision": TokenLimits(self.min_vote_tokens, self.max_vote_tokens),
        }

    def engine_options(self) -> EngineOptions:
        """Options of the vLLM engine of one process. The number of processes must be known (`__post_init__`)."""
        votes = self.per_device_train_batch_size * self.steps_per_generation
        same = "bfloat16" if self.bf16 else "auto"
        return EngineOptions(
            max_num_seqs=self.vllm_max_num_seqs or votes * self.vllm_tensor_parallel_size,
            tensor_parallel_size=self.vllm_tensor_parallel_size,
            gpu_memory_utilization=self.vllm_gpu_memory_utilization,
            max_model_length=self.vllm_max_model_length,
            dtype=self.vllm_dtype or ("float32" if self.use_cpu else same),
            enforce_eager=self.vllm_enforce_eager or self.use_cpu,
            sleep=self.vllm_enable_sleep_mode,
            model_impl=self.vllm_model_impl,
            trust_remote_code=self.trust_remote_code,
            more={} if self.vllm_block_size is None else {"block_size": self.vllm_block_size},
        )

    def server_options(self) -> list[ServerOptions]:
        """Address and timeouts of each vLLM server. The number of processes must be known (`__post_init__`)."""
        votes = self.per_device_train_batch_size * self.steps_per_generation
        at_once = self.vllm_max_num_seqs or min(votes, REQUESTS_AT_ONCE)
        timeouts = (self.vllm_server_timeout, self.vllm_request_timeout)
        ports = count(self.vllm_group_port)
        return [ServerOptions(url, *timeouts, at_once, next(ports)) for url in server_urls(self)]

    def sampling(self) -> Sampling:
        return Sampling(self.temperature, self.top_k, self.top_p)

    def make_baselines(self) -> RoleBaselines:
        return RoleBaselines(self.rae_alpha)

    def make_schedule(self) -> StageSchedule:
        if self.schedule == "iterative":
            names = ("rho", "acc_up", "err_up", "na_up", "na_down", "k_min", "debias", "reset_averages")
            return StageSwitch(**{name: getattr(self, name) for name in names}, patience=self.patience or None)
        if self.schedule == "cycle":
            return CycleStages(self.cycle_decision, self.cycle_clue, rho=self.rho, debias=self.debias)
        return FixedStage(self.schedule, rho=self.rho, debias=self.debias)

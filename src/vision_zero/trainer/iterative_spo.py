"""Iterative-SPO as a GRPOTrainer: play, then replay.

One iteration, top to bottom, is `_generate_and_score_completions`: whole games are played, their votes become rewards
and advantages, the completions of the active stage become training samples exactly as their players saw them, and TRL
does the rest with a `rollout_func` that returns the tokens that were played. Padding, reference log-probabilities,
clipping, KL and loss stay TRL's.

    decision stage   a sample per vote, the G votes of a game in a row: TRL's group normalisation is the paper's
    clue stage       a sample per clue, group size 1, role advantages (RAE) in place of TRL's
    both             `train_stages=both` (the public code's lost phase mask): all of these samples in one batch

Stage, moving averages, role baselines and counters are computed from the votes of all processes, equal everywhere, and
saved with every checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from vision_zero import ranks, run_folder
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.data.pairs import BadImageError
from vision_zero.game.spy_game import summarize
from vision_zero.models.attention import use_grouped_sdpa
from vision_zero.rollout.deal import deal_onto_pairs
from vision_zero.rollout.game_images import GameImages
from vision_zero.rollout.image_store import look_images_up, store_of
from vision_zero.rollout.play import Rollout, Seating, play
from vision_zero.rollout.policy import NotFiniteError, Policy, PromptTooLongError
from vision_zero.rollout.progress import game_bar
from vision_zero.rollout.record import game_record
from vision_zero.rollout.self_check import dropout_of, gap_limit
from vision_zero.rollout.stopping import STOP, StoppedError
from vision_zero.rollout.transformers_policy import without_adapter_wrapper
from vision_zero.rollout.vllm.client import VLLMServerError
from vision_zero.spo.rewards import COMPLETION_REWARDS
from vision_zero.spo.scoring import Scores, score_games
from vision_zero.trainer.checkpointing import LastIteration, ResumableTrainer, split_by_fsdp
from vision_zero.trainer.finite import stop_not_finite, stop_unless_finite
from vision_zero.trainer.frozen_players import FrozenStart, PastPlayers
from vision_zero.trainer.frozen_vision import FrozenTower
from vision_zero.trainer.generation import SHORTER_PROMPTS, START_SERVER_AGAIN, Generation
from vision_zero.trainer.logp_gap import LogprobGuard
from vision_zero.trainer.metrics import (
    Streaks,
    TokenWeightedMetrics,
    iteration_metrics,
    log_iteration,
    tell_of_iteration,
)
from vision_zero.trainer.packed_forward import PackedForward
from vision_zero.trainer.samples import TrainingSample, build_samples, final_advantages, pad_samples, replay_rollout
from vision_zero.types import Game, GameRules, ImagePair, Stage

REPAIR_IMAGE = "Repair or remove the file and continue with --resume, or use --on_bad_image skip"

Players = Callable[[Policy, Stage], Seating]


def every_role(policy: Policy, stage: Stage) -> Seating:
    """Self-play: one policy in every seat."""
    return Seating.of(policy)


def _reward_column(name: str) -> Callable[..., list[float]]:
    """TRL's reward function: the rewards of the samples, which are a column of its inputs."""
    return lambda **columns: list(columns[name])


class IterativeSPOTrainer(ResumableTrainer):
    """Trains a vision-language model by self-play on `pairs`.

    `players` says who plays which role in a stage, given the policy that is trained; completions of other policies
    are played but never trained on. Raises ValueError for a processor without images and for options that would change
    what is trained (see `IterativeSPOConfig`).
    """

    _tag_names = ["trl", "vision-zero"]  # noqa: RUF012  (TRL's own form)
    _name = "Iterative-SPO"

    def __init__(
        self,
        model: str | PreTrainedModel,
        args: IterativeSPOConfig,
        pairs: Sequence[ImagePair],
        rules: GameRules,
        processing_class: ProcessorMixin,
        *,
        template: str = "auto",
        on_bad_image: str = "stop",
        players: Players = every_role,
        **kwargs: Any,
    ) -> None:
        if not isinstance(processing_class, ProcessorMixin):
            raise ValueError(f"{type(processing_class).__name__} cannot read images; give the model's processor")
        if rules.n_votes != args.num_generations:
            raise ValueError(f"rules.n_votes={rules.n_votes} and num_generations={args.num_generations} must be equal")
        self.pairs = pairs
        self.rules = rules
        self.template = template
        self.on_bad_image = on_bad_image
        self.players = players
        self.schedule = args.make_schedule()
        self.baselines = args.make_baselines()
        self.bad_images: set[int] = set()
        self.samples: list[TrainingSample] = []
        # A processor pads right unless told otherwise, which misaligns multimodal fields without an error.
        processing_class.tokenizer.padding_side = "left"
        self.images = store_of(processing_class)
        # The reference model exists only if the weight is not 0 at construction.
        beta, use_vllm = args.beta, args.use_vllm
        args.beta = max(args.kl_weight("clue"), args.kl_weight("decision"))
        args.use_vllm = False  # `Generation` makes the engine, TRL's own is not correct for images
        reward_names = ["reward", *COMPLETION_REWARDS]
        super().__init__(
            model=model,
            reward_funcs=[_reward_column(name) for name in reward_names],
            args=args,
            train_dataset=Dataset.from_dict({"game": range(args.iterations * args.games_per_iteration)}),
            processing_class=processing_class,
            rollout_func=replay_rollout,
            **kwargs,
        )
        args.beta, args.use_vllm = beta, use_vllm
        if getattr(self.model, "is_loaded_in_4bit", False):
            for weight in self.model.parameters():  # TRL makes adapters bfloat16, whose steps are mostly rounded away
                weight.data = weight.data.float() if weight.requires_grad else weight.data
        self.reward_func_names = reward_names
        self.reward_weights = torch.tensor([1.0, *args.extra_reward_weights().values()])
        self.generation = Generation(args, self.model, self.accelerator, processing_class)
        if args.fsdp:
            split_by_fsdp(self)
        if self.generation.engine is not None:  # from here on TRL corrects for what it samples with other rounding
            self.use_vllm, self.vllm_generation = True, self.generation.engine
        wrapped = [model for model in (self.model, self.ref_model) if model is not None]
        models = [without_adapter_wrapper(self.accelerator.unwrap_model(model)) for model in wrapped]
        for one in models:
            look_images_up(use_grouped_sdpa(one), self.images)
        self.start = FrozenStart(self)
        self.past = PastPlayers(self)
        self.frozen = FrozenTower(models, self.images) if args.freeze_vision else None
        if dropout := dropout_of(models[0], models[0].get_encoder("image") if args.freeze_vision else None):
            raise ValueError(
                f"{dropout} must be 0: the update would drop what its player does not, and train another model"
            )
        self.packed = PackedForward(args, self.model, self.accelerator, self.images, has_aux_loss=self.aux_loss_enabled)
        self.token_metrics = TokenWeightedMetrics()
        self.streaks = Streaks(shown=self.accelerator.is_main_process)
        engine = None if self.generation.engine is None else self.generation.engine.dtype
        self.logprob_guard = LogprobGuard(self, gap_limit(self.model, args.bf16, engine))

    # ------------------------------------------------------------------------------------------------- one iteration

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        STOP.training = True
        STOP.leave_together(self.gather, STOP.agreed or STOP.number is not None)
        self.last_iteration = LastIteration(self)
        started = time.perf_counter()
        ranks.at("playing")
        stage = self.schedule.stage
        games, images = self._deal([row["game"] for row in inputs[:: self.num_generations]])
        rollout, counters = self._play(games, images, stage)
        summaries = self.gather([summarize(game) for game in rollout.games])
        summaries.sort(key=lambda summary: summary.game)
        past = self.past.games(stage, (summary.game for summary in summaries))
        scores = score_games(
            summaries,
            reward_beta=self.args.reward_beta,
            reward_lambda=self.args.reward_lambda,
            na_reward=self.args.na_reward,
            baselines=self.baselines,
            move_baselines=stage == "clue" or self.args.rae_stages == "always",
            per=self.args.rae_update,
            subtract=self.args.rae_subtract,
            past=past,
            control=self.args.reward_control,
            seed=self.args.seed,
            iteration=self.schedule.iteration,
        )
        samples = build_samples(rollout, scores, self.args.trained_stages(stage), self.template)
        batch = self._replay(samples, stage)
        self._record_games(rollout.games, scores, stage)
        self._next_stage(scores)
        others_clues = past if stage == "decision" else ()  # past voters play in clue stages, past clue givers in these
        limits = self.args.token_limits()
        metrics = iteration_metrics(summaries, scores, stage, self.schedule, self.baselines, limits, others_clues)
        metrics |= self.past.metrics(summaries, stage)
        for name, weight in self.args.extra_reward_weights().items():
            if weight:
                metrics[f"reward/{name}"] = fmean(self.gather([sample.extra_rewards[name] for sample in samples]))
        tell_of_iteration(self.streaks, self.schedule.iteration, metrics, scores)
        metrics |= {f"rollout/{name}": value for name, value in counters.items()} | self.generation.metrics()
        metrics["images/skipped_pairs"] = len(self.bad_images)
        metrics["seconds/rollout"] = rollout.seconds
        metrics["seconds/play_and_score"] = time.perf_counter() - started
        log_iteration(self._metrics["train"], metrics)
        return batch

    def _deal(self, indices: Sequence[int]) -> tuple[list[Game], GameImages]:
        """This process's games with their images open. A broken image stops the run on all processes, or is skipped."""
        dealt = deal_onto_pairs(
            indices,
            self.args.seed,
            self.pairs,
            self.rules,
            known_bad=self.bad_images,
            skip_bad=self.on_bad_image == "skip",
        )
        # Each broken pair is said once, and every checkpoint knows all of them.
        for number, reason in sorted(dict(self.gather(list(dealt.skipped.items()))).items()):
            self.bad_images.add(number)
            if self.accelerator.is_main_process:
                tqdm.write(f"skipped a pair with a broken image: {reason}", file=sys.stderr)
        self.raise_on_all_ranks(dealt.error, BadImageError, REPAIR_IMAGE)
        return dealt.games, dealt.images

    def _play(self, games: list[Game], images: GameImages, stage: Stage) -> tuple[Rollout, dict[str, float]]:
        """The games played to their end, and how much work that was, over all processes."""
        self.images.clear()
        preprocessed = self.images.preprocessed
        self.raise_on_all_ranks(self.generation.sync_weights(), VLLMServerError, START_SERVER_AGAIN)
        self._last_loaded_step = self.state.global_step  # so that TRL does not load the engine's weights again
        failed: Exception | None = None

        def on_call(n_turns: int) -> None:
            answered(n_turns)
            if self.args.vllm_tensor_parallel_size == 1:  # others leave together, in `TensorParallelPolicy`
                STOP.check()

        with (
            self.generation.policy(self.model_wrapped) as policy,
            self.past.seated(self.players(policy, stage), games, stage) as seating,
            game_bar(
                f"playing ({stage})",
                len(games) * self.accelerator.num_processes,
                len(games) * self.rules.n_turns,
                shown=self.accelerator.is_local_main_process and not self.args.disable_tqdm,
            ) as answered,
        ):
            try:
                rollout = play(
                    games,
                    seating,
                    self.args.token_limits(),
                    images=images,
                    template=self.template,
                    lock_step=self.args.lock_step,
                    on_call=on_call,
                )
            except (StoppedError, VLLMServerError, PromptTooLongError, NotFiniteError) as error:
                failed = error
        STOP.leave_together(self.gather, isinstance(failed, StoppedError))
        self.raise_on_all_ranks(failed, VLLMServerError, START_SERVER_AGAIN)
        self.raise_on_all_ranks(failed, PromptTooLongError, SHORTER_PROMPTS)
        if what := self.first_error(failed):
            stop_not_finite(self, what)
        counters = {
            "calls": rollout.calls,
            "tokens/new": policy.new_tokens,
            "tokens/prefilled": policy.prefilled_tokens,
            "tokens/reused": policy.reused_tokens,
            "images/preprocessed": self.images.preprocessed - preprocessed,
        }
        everyones = self.gather([counters])
        sums = {name: sum(one[name] for one in everyones) for name in counters}
        return rollout, {**sums, "calls": max(one["calls"] for one in everyones)}  # processes call in lock-step

    # ---------------------------------------------------------------------------------------- games become gradients

    def _replay(self, samples: list[TrainingSample], stage: Stage) -> dict[str, Any]:
        """Hand the samples to TRL, and correct what is different where they are not the votes of whole games."""
        ranks.at("scoring")
        n_real = len(samples)
        samples = pad_samples(samples, self.args.steps_per_generation)
        self.samples = samples
        self.packed.plan_batches(samples)
        own_group, own_beta = self.num_generations, self.beta
        votes_alone = self.args.trained_stages(stage) == ("decision",)
        self.num_generations = own_group if votes_alone else 1
        self.beta = self.args.kl_weight(stage)
        inputs = [
            {
                "prompt": [{"role": "user", "content": sample.prompt}],
                "images": [sample.image],
                "reward": sample.reward,
                **sample.extra_rewards,
            }
            for sample in samples
        ]
        try:
            with self.images.numbered():
                if self.frozen is not None:
                    with self.generation.tower(self.model_wrapped):
                        self.frozen.encode([sample.image for sample in samples], self.processing_class)
                batch = super()._generate_and_score_completions(inputs)
        finally:
            self.num_generations, self.beta = own_group, own_beta
            self.samples = []
        self.logprob_guard.start(batch)
        # TRL counted the prompts of dummy samples as tokens seen.
        self.state.num_input_tokens_seen -= sum(self.gather([sum(len(s.prompt_ids) for s in samples if s.is_dummy)]))
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]
        device = batch["advantages"].device
        if not votes_alone:
            weights, scale = self.args.extra_reward_weights(), self.args.scale_rewards == "group"
            advantages = final_advantages(samples, weights, scale=scale)
            batch["advantages"] = torch.tensor(advantages, dtype=torch.float32, device=device)
        # "grpo" averages over rows, and a dummy is no completion: count it out. "dapo" counts tokens; it has none.
        stop_unless_finite(self, {"advantages": batch["advantages"]}, batch)
        loss_scale = len(samples) / n_real if self.loss_type == "grpo" else 1.0
        batch["loss_scale"] = torch.tensor(loss_scale, device=device)
        batch["kl_weight"] = torch.tensor(self.args.kl_weight(stage), device=device)
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        """TRL's buffering of a generation batch, split by plan instead of shuffled."""
        if self._step % (self.args.steps_per_generation * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = self.packed.split_micro_batches(batch)
            for name, value in self.packed.padding_metrics(self._buffered_inputs).items():
                self._metrics["train"][name].append(value)
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    def _get_per_token_logps_and_entropies(self, *args: Any, **kwargs: Any) -> Any:
        scored = self.packed.logps_and_entropies(super()._get_per_token_logps_and_entropies, *args, **kwargs)
        self._last_logps = scored[0]
        return scored

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """TRL's loss with the KL weight of the samples' stage, dummy samples counted out of the mean."""
        ranks.at("updating")
        own_beta, self.beta = self.beta, float(inputs["kl_weight"])
        try:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.beta = own_beta
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        last = (self._step + 1) % (self.args.steps_per_generation * self.num_iterations) == 0
        own = [mask.sum(), STOP.over() and not last, not torch.isfinite(loss)]
        counts = torch.tensor(own, dtype=torch.float32, device=mask.device)
        n_tokens, n_stopped, n_broken = self.accelerator.reduce(counts, reduction="sum").tolist()
        if n_broken:
            stop_unless_finite(self, {"loss": loss.detach()}, inputs)
        self.logprob_guard.add(self._last_logps, inputs)
        if n_stopped:
            STOP.leave_together(self.gather, True)
        self.token_metrics.take(self._metrics["train"], n_tokens)
        if self.accelerator.sync_gradients:
            self.token_metrics.put_back(self._metrics["train"])
        return loss * inputs["loss_scale"]

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """TRL's, before the optimizer steps (DeepSpeed has stepped by then; its weights are saved nowhere)."""
        norm = super()._get_grad_norm(model, grad_norm)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        batch = self._buffered_inputs[(self._step - 1) % self.args.steps_per_generation]
        stop_unless_finite(self, {"gradient norm": torch.as_tensor(norm, dtype=torch.float32)}, batch)
        return norm

    # ------------------------------------------------------------------------------------- switch, record, save, resume

    def _next_stage(self, scores: Scores) -> None:
        before = self.schedule.stage
        after = self.schedule.update(scores.accuracy, scores.na_rate)
        reason = self.schedule.last_reason
        if reason is not None and self.accelerator.is_main_process:
            event = self.schedule.history[-1]
            line = {"step": self.state.global_step, **asdict(event)}
            run_folder.append_json_line(Path(self.args.output_dir) / run_folder.SWITCHES, line)
            tqdm.write(
                f"iteration {event.iteration}: {before} -> {after} by {reason} (average accuracy "
                f"{event.accuracy_average:.3f}, N/A rate {event.na_average:.3f}, after {event.dwell} iterations)",
                file=sys.stderr,
            )

    def _record_games(self, games: Sequence[Game], scores: Scores, stage: Stage) -> None:
        every = self.args.record_games_every
        if not every or self.schedule.iteration % every:
            return
        records = [
            game_record(
                game,
                step=self.state.global_step,
                stage=stage,
                template=self.template,
                **asdict(scores.by_game[game.index]),
                past=self.past.record(game.index, stage),
            )
            for game in games
        ]
        records = sorted(self.gather(records), key=lambda record: record["game"])
        if self.accelerator.is_main_process:
            folder = Path(self.args.output_dir) / run_folder.GAMES
            run_folder.write_json_lines(folder / f"step-{self.state.global_step:06d}.jsonl", records)

    def state_dict(self) -> dict[str, Any]:
        """State that makes a resumed run the same run: stage, averages, dwell, baselines and the games dealt so far."""
        return {
            "schedule": self.schedule.state_dict(),
            "baselines": self.baselines.state_dict(),
            "bad_images": sorted(self.bad_images),
            "streaks": self.streaks.lengths,
            "games_dealt": self.schedule.iteration * self.args.games_per_iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state["schedule"])
        self.baselines.load_state_dict(state["baselines"])
        self.bad_images = set(state["bad_images"])
        self.streaks.lengths = dict(state.get("streaks", {}))  # of older checkpoints: none

"""Iterative-SPO as a GRPOTrainer: play, then replay.

What is changed is one method, `_generate_and_score_completions`: it plays whole games, turns the replies of the active
stage into rows exactly as their players saw them, and lets TRL do the rest with a `rollout_func` that hands back the
tokens that were played. Padding, reference log-probabilities, clipping, KL, loss and logging stay TRL's.

    decision stage   a row per vote, the G votes of a game next to each other: TRL's group normalisation is the paper's
    clue stage       a row per clue, group size 1, role advantages (RAE) put in place of TRL's
    both             `train_stages=both` (the public code's lost phase mask): all of these rows in one batch

Stage, moving averages, role baselines and counters are computed from the votes of all processes, equal everywhere, and
saved with every checkpoint.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from vision_zero import run_folder
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.data.pairs import BadImageError
from vision_zero.game.spy_game import summarize
from vision_zero.rollout.deal import deal_onto_pairs
from vision_zero.rollout.game_images import GameImages
from vision_zero.rollout.image_cache import NumberedImages, look_images_up, memoize_images
from vision_zero.rollout.play import Rollout, Table, play
from vision_zero.rollout.policy import Policy, PromptTooLongError
from vision_zero.rollout.progress import game_bar
from vision_zero.rollout.record import game_record
from vision_zero.rollout.transformers_policy import without_adapter_wrapper
from vision_zero.rollout.vllm.client import VLLMServerError
from vision_zero.spo.scoring import Scores, score_games
from vision_zero.trainer.frozen_vision import FrozenTower
from vision_zero.trainer.generation import OTHER_SERVER, SHORTER_PROMPTS, PlayingModel
from vision_zero.trainer.metrics import TokenMeans, iteration_metrics
from vision_zero.trainer.packed_forward import TightBatches
from vision_zero.trainer.samples import Row, final_advantages, hand_back, make_rows, pad_rows
from vision_zero.types import Game, GameRules, ImagePair, Stage

OTHER_IMAGE = "Repair or remove the file and continue with --resume, or use --on_bad_image skip"


Players = Callable[[Policy, Stage], Table]


def every_role(policy: Policy, stage: Stage) -> Table:
    """Self-play: one policy in every seat."""
    return Table.of(policy)


def _hand_back(prompts: list[Any], trainer: IterativeSPOTrainer) -> dict[str, list[Any]]:
    """TRL's `rollout_func`."""
    if len(prompts) != len(trainer.rows):
        raise RuntimeError(f"TRL asks for {len(prompts)} replies, {len(trainer.rows)} were played")
    return hand_back(trainer.rows)


def _reward(*, reward: Sequence[float], **_: Any) -> list[float]:
    return list(reward)


def _format(*, format: Sequence[float], **_: Any) -> list[float]:
    return list(format)


class IterativeSPOTrainer(TightBatches, PlayingModel):
    """Trains a vision-language model by self-play on `pairs`.

    `players` says who plays which role in a stage, given the policy that is trained; replies of other policies are
    played but never trained on. Raises ValueError for a processor without images and for options that would change
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
        self.rows: list[Row] = []
        self._token_means = TokenMeans()
        # A processor pads right unless told otherwise, which misaligns multimodal fields without an error.
        processing_class.tokenizer.padding_side = "left"
        self.memo = memoize_images(processing_class)
        # The reference model exists only if the weight is not 0 at construction.
        beta, use_vllm = args.beta, args.use_vllm
        args.beta = max(args.kl_weight("clue"), args.kl_weight("decision"))
        args.use_vllm = False  # the engine is made below, TRL's own is not correct for images
        super().__init__(
            model=model,
            reward_funcs=list[Any]((_reward, _format)),
            args=args,
            train_dataset=Dataset.from_dict({"game": range(args.iterations * args.games_per_iteration)}),
            processing_class=processing_class,
            rollout_func=_hand_back,
            **kwargs,
        )
        args.beta, args.use_vllm = beta, use_vllm
        if use_vllm:
            self.start_engine()
        self.images = NumberedImages()
        wrapped = [model for model in (self.model, self.ref_model) if model is not None]
        models = [without_adapter_wrapper(self.accelerator.unwrap_model(model)) for model in wrapped]
        for one in models:
            look_images_up(one, self.images)
        self.decide_sharing()
        self.frozen = FrozenTower(models, self.images) if args.freeze_vision else None
        self.reward_func_names = ["reward", "format"]
        self.reward_weights = torch.tensor([1.0, args.format_weight])

    # ------------------------------------------------------------------------------------------------- one iteration

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        started = time.perf_counter()
        stage = self.schedule.stage
        indices = [row["game"] for row in inputs[:: self.num_generations]]
        games, images = self._deal(indices)
        rollout, counters = self._play(games, images, stage)
        summaries = self.gather([summarize(game) for game in rollout.games])
        summaries.sort(key=lambda summary: summary.game)
        scores = score_games(
            summaries,
            beta=self.args.reward_beta,
            lam=self.args.reward_lambda,
            na=self.args.na_reward,
            baselines=self.baselines,
            move_baselines=stage == "clue" or self.args.rae_stages == "always",
            per=self.args.rae_update,
            subtract=self.args.rae_subtract,
        )
        rows = make_rows(rollout, scores, self.args.trained_stages(stage), self.template)
        batch = self._replay(rows, stage)
        self._record_games(rollout.games, scores, stage)
        self._next_stage(scores)
        metrics = iteration_metrics(summaries, scores, stage, self.schedule, self.baselines, self.args.limits())
        metrics |= {f"rollout/{name}": value for name, value in counters.items()}
        metrics["images/skipped_pairs"] = len(self.bad_images)
        metrics["seconds/rollout"] = rollout.seconds
        metrics["seconds/play_and_score"] = time.perf_counter() - started
        self._log_iteration(metrics)
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
        self._note_skipped(dealt.skipped)
        self.stop_if_any(dealt.error, BadImageError, OTHER_IMAGE)
        return dealt.games, dealt.images

    def _note_skipped(self, skipped: dict[int, str]) -> None:
        """Tell all processes, so that each broken pair is said once and every checkpoint knows all of them."""
        for number, reason in sorted(dict(self.gather(list(skipped.items()))).items()):
            self.bad_images.add(number)
            if self.accelerator.is_main_process:
                tqdm.write(f"skipped a pair with a broken image: {reason}", file=sys.stderr)

    def _play(self, games: list[Game], images: GameImages, stage: Stage) -> tuple[Rollout, dict[str, float]]:
        self.memo.clear()
        self.images.clear()
        if self.frozen is not None:
            self.frozen.clear()
        preprocessed = self.memo.preprocessed
        lost: VLLMServerError | None = None
        too_long: PromptTooLongError | None = None
        with (
            self.playing() as policy,
            game_bar(
                f"playing ({stage})",
                len(games) * self.accelerator.num_processes,
                len(games) * (self.rules.n_players * self.rules.n_rounds + self.rules.n_votes),
                shown=self.accelerator.is_local_main_process and not self.args.disable_tqdm,
            ) as answered,
        ):
            try:
                rollout = play(
                    games,
                    self.players(policy, stage),
                    self.args.limits(),
                    images=images,
                    template=self.template,
                    lock_step=self.args.lock_step,
                    on_call=answered,
                )
            except VLLMServerError as error:
                lost = error
            except PromptTooLongError as error:
                too_long = error
        self.stop_if_any(lost, VLLMServerError, OTHER_SERVER)
        self.stop_if_any(too_long, PromptTooLongError, SHORTER_PROMPTS)
        counters: dict[str, float] = {
            "calls": rollout.calls,
            "tokens/new": policy.new_tokens,
            "tokens/prefilled": policy.prefilled_tokens,
            "tokens/reused": policy.reused_tokens,
            "images/preprocessed": self.memo.preprocessed - preprocessed,
        }
        return rollout, self._over_processes(counters)

    def _over_processes(self, counters: dict[str, float]) -> dict[str, float]:
        """Work done by all processes; they call in lock-step, so calls are those of the process that called most."""
        gathered = self.gather([counters])
        sums = {name: sum(one[name] for one in gathered) for name in counters}
        return {**sums, "calls": max(one["calls"] for one in gathered)}

    # -------------------------------------------------------------------------------------------- games become rows

    def _replay(self, rows: list[Row], stage: Stage) -> dict[str, Any]:
        """Hand the rows to TRL and correct what rows other than the votes of whole games have different."""
        n_real = len(rows)
        rows = pad_rows(rows, self.args.steps_per_generation)
        self.rows = rows
        self.plan(rows)
        own_group, own_beta = self.num_generations, self.beta
        votes_alone = self.args.trained_stages(stage) == ("decision",)
        self.num_generations = own_group if votes_alone else 1
        self.beta = self.args.kl_weight(stage)
        inputs = [
            {
                "prompt": [{"role": "user", "content": row.prompt}],
                "images": [row.image],
                "reward": row.reward,
                "format": 1.0 if row.readable else -1.0,
            }
            for row in rows
        ]
        try:
            with self.memo.by_number(self.images):
                if self.frozen is not None:
                    with self.accelerator.autocast():
                        self.frozen.encode([row.image for row in rows], self.processing_class)
                batch = super()._generate_and_score_completions(inputs)
        finally:
            self.num_generations, self.beta = own_group, own_beta
            self.rows = []
        self.stop_if_sampled_by_another()
        self._uncount_padding([row for row in rows if row.is_padding])
        device = batch["advantages"].device
        if not votes_alone:
            advantages = final_advantages(rows, self.args.format_weight, scale=self.args.scale_rewards == "group")
            batch["advantages"] = torch.tensor(advantages, dtype=torch.float32, device=device)
            self._replace_logged_advantages(batch["advantages"])
        # "grpo" averages over rows, and padding is no reply: count it out. "dapo" counts tokens, where it has none.
        scale = len(rows) / n_real if self.loss_type == "grpo" else 1.0
        batch["loss_scale"] = torch.tensor(scale, device=device)
        batch["kl_weight"] = torch.tensor(self.args.kl_weight(stage), device=device)
        return batch

    def _uncount_padding(self, padding: Sequence[Row]) -> None:
        """TRL counted the prompts of padding rows as tokens seen."""
        self.state.num_input_tokens_seen -= sum(self.gather([sum(len(row.prompt_ids) for row in padding)]))
        self._metrics["train"]["num_tokens"] = [self.state.num_input_tokens_seen]

    def _replace_logged_advantages(self, advantages: torch.Tensor) -> None:
        """TRL logged the advantages it would have used; its table should show ours."""
        ours = self.accelerator.gather(advantages).tolist()
        for _ in range(min(len(ours), len(self._logs["advantages"]))):
            self._logs["advantages"].pop()
        self._logs["advantages"].extend(ours)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """TRL's loss with the KL weight of the stage that the rows come from, padding rows counted out of the mean."""
        own_beta, self.beta = self.beta, float(inputs["kl_weight"])
        try:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        finally:
            self.beta = own_beta
        self._weigh_token_metrics(inputs)
        return loss * inputs["loss_scale"]

    def _weigh_token_metrics(self, inputs: dict[str, Any]) -> None:
        mask = inputs["completion_mask"] * inputs.get("tool_mask", 1)
        n_tokens = self.accelerator.reduce(mask.sum().float(), reduction="sum").item()
        self._token_means.take(self._metrics["train"], n_tokens)
        if self.accelerator.sync_gradients:
            self._token_means.put_back(self._metrics["train"])

    # ------------------------------------------------------------------------------------- switch, log, save, resume

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
        records = []
        for game in games:
            score = scores.of(game.index)
            records.append(
                game_record(
                    game,
                    step=self.state.global_step,
                    stage=stage,
                    template=self.template,
                    clue_rewards=score.clue_rewards,
                    clue_advantages=score.clue_advantages,
                    vote_rewards=score.vote_rewards,
                )
            )
        records = sorted(self.gather(records), key=lambda record: record["game"])
        if self.accelerator.is_main_process:
            folder = Path(self.args.output_dir) / run_folder.GAMES
            run_folder.write_json_lines(folder / f"step-{self.state.global_step:06d}.jsonl", records)

    def _log_iteration(self, metrics: dict[str, float]) -> None:
        """In place of TRL's own numbers of rows and rewards, which count padding rows."""
        log = self._metrics["train"]
        for name in [name for name in log if name.split("/")[0] in ("completions", "rewards")]:
            del log[name]
        for name in ("reward", "reward_std", "frac_reward_zero_std"):
            log.pop(name, None)
        for name, value in metrics.items():
            log[name].append(float(value))

    def state_dict(self) -> dict[str, Any]:
        """What makes a resumed run the same run: stage, averages, dwell, baselines and the games dealt so far."""
        return {
            "schedule": self.schedule.state_dict(),
            "baselines": self.baselines.state_dict(),
            "bad_images": sorted(self.bad_images),
            "games_dealt": self.schedule.iteration * self.args.games_per_iteration,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state["schedule"])
        self.baselines.load_state_dict(state["baselines"])
        self.bad_images = set(state["bad_images"])
        if state["games_dealt"] != self.schedule.iteration * self.args.games_per_iteration:
            raise ValueError(
                f"the checkpoint dealt {state['games_dealt']} games in {self.schedule.iteration} iterations, this run "
                f"deals {self.args.games_per_iteration} per iteration; resume with the same games_per_iteration"
            )

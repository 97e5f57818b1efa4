"""Callbacks of a training run: metrics.jsonl, a line per iteration, the bar of an update, games in Weights & Biases."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vision_zero import run_folder
from vision_zero.data.pairs import BadImageError
from vision_zero.models import first_not_finite
from vision_zero.rollout.deal import deal_onto_pairs
from vision_zero.rollout.progress import make_bar
from vision_zero.rollout.record import seen_images
from vision_zero.rollout.self_check import SelfCheckError, check_player, first_requests, nothing_changed
from vision_zero.rollout.vllm.client import VLLMServerError
from vision_zero.trainer.generation import START_SERVER_AGAIN
from vision_zero.types import ImagePair

if TYPE_CHECKING:
    from vision_zero.trainer.iterative_spo import IterativeSPOTrainer

TABLE = "games"


class MetricsFile(TrainerCallback):
    """Every logged step as one line of metrics.jsonl, before any tracker."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero and logs and "loss" in logs:
            run_folder.append_json_line(Path(args.output_dir) / run_folder.METRICS, {"step": state.global_step, **logs})


class IterationLine(TrainerCallback):
    """One readable line per iteration, in place of a dictionary of forty numbers; those are in metrics.jsonl."""

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        if not state.is_world_process_zero or not {"stage/is_clue", "loss"} <= (logs or {}).keys():
            return
        steps = args.optimizer_steps_per_iteration  # the numbers of an iteration are logged with its first step
        stage = "clue" if logs["stage/is_clue"] else "decision"
        tqdm.write(
            f"iteration {(state.global_step - 1) // steps + 1}/{args.iterations}  {stage:<8}"
            f"  spy found {logs['stage/accuracy']:.2f}  N/A {logs['stage/na_rate']:.2f}"
            f"  unparsed clues {logs['clues/unparsed']:.2f} votes {logs['votes/invalid']:.2f}"
            f"  reward of votes {logs['reward/vote']:+.2f} spy {logs['reward/spy']:+.2f}"
            f"  loss {logs['loss']:.3g}  KL {logs.get('kl', 0):.3g}  gradient {logs['grad_norm']:.3g}"
            f"  {logs['step_time']:.1f} s"
        )


class SelfCheck(TrainerCallback):
    """`check_player` on a game of the run before the first step, on all processes, with the weights that will play."""

    def __init__(self, trainer: IterativeSPOTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        trainer, args = self.trainer, self.trainer.args
        number = trainer.accelerator.process_index
        dealt = deal_onto_pairs([number], args.seed, trainer.pairs, trainer.rules, known_bad=set(), skip_bad=True)
        trainer.raise_on_all_ranks(dealt.error, BadImageError, "Repair the images")
        trainer.raise_on_all_ranks(trainer.generation.sync_weights(), VLLMServerError, START_SERVER_AGAIN)
        name, weight = trainer.model.config._name_or_path, first_not_finite(trainer.model.named_parameters())
        failure = SelfCheckError(f"model {name}: its weight {weight} is not finite") if weight else None
        if reason := trainer.first_error(failure):
            raise SelfCheckError(f"{reason}; fetch it again, or give another")
        encoded = trainer.frozen.encoded if trainer.frozen else 0
        try:
            line = check_player(
                name,
                lambda: trainer.generation.policy(trainer.model_wrapped),
                lambda: trainer.generation.unwrapped(trainer.model_wrapped),
                trainer.processing_class,
                first_requests(dealt.games[0], trainer.template),
                args.temperature,
                trainer.logprob_guard.limit,
            )
            if trainer.frozen:
                with nothing_changed(trainer.processing_class), trainer.generation.tower(trainer.model_wrapped):
                    trainer.frozen.check(list(dealt.images.values())[:2], trainer.processing_class)
        except SelfCheckError as error:
            failure = error
        if trainer.frozen:
            trainer.frozen.encoded = encoded
        if reason := trainer.first_error(failure):
            raise SelfCheckError(reason) from failure
        if trainer.accelerator.is_main_process:
            tqdm.write(line, file=sys.stderr)


class UpdateBar(TrainerCallback):
    """A bar over an iteration's micro-batches, from the end of the first on, whose time has the rollout in it."""

    _bar: Any = None
    _done = 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        if self._bar is not None:
            self._bar.close()
        self._bar, self._done = None, 0

    on_train_end = on_train_begin

    def on_substep_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        n_parts = args.steps_per_generation * args.num_iterations
        games_per_part = args.games_per_iteration / n_parts
        self._done += 1
        if self._done == n_parts:
            self.on_train_end()
        elif self._bar is None:
            shown = state.is_local_process_zero and not args.disable_tqdm
            self._bar = make_bar("updating", args.games_per_iteration, self._done * games_per_part, shown)
        else:
            self._bar.update(games_per_part)

    on_step_end = on_substep_end


class GamesTable(TrainerCallback):
    """Logs the first `args.wandb_games` games of every recorded iteration, with both images, as one table.

    It reads what the run has just recorded, so that the table and games/ cannot differ, and opens the images again.
    """

    def __init__(self, pairs: Sequence[ImagePair]) -> None:
        self.pairs = pairs
        self._rows: dict[str, int] = {}

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """After the first optimizer step of an iteration: its games were recorded under the step before."""
        options: Any = args
        file = Path(options.output_dir) / run_folder.GAMES / f"step-{state.global_step - 1:06d}.jsonl"
        if not state.is_world_process_zero or not file.is_file():
            return
        import wandb

        iteration = (state.global_step - 1) // options.optimizer_steps_per_iteration + 1
        self._rows = self._rows or {pair.id: row for row, pair in enumerate(self.pairs)}
        games = []
        for record in run_folder.read_json_lines(file)[: options.wandb_games]:
            row = self._rows.get(record["pair"])
            seen = seen_images(record, {} if row is None else {record["pair"]: self.pairs[row]})
            games.append(_cells(record, iteration, *(wandb.Image(image.copy()) for image in seen)))
        table = wandb.Table(columns=list(games[0]), data=[list(game.values()) for game in games])
        wandb.log({TABLE: table, "train/global_step": state.global_step})


def _cells(record: Mapping[str, Any], iteration: int, civilians_see: Any, spy_sees: Any) -> dict[str, Any]:
    """A row of the table, by column."""
    spy, rewards = record["spy"], record["clue_rewards"]
    clues = [
        f"{clue['round']}.{clue['seat']}{' (spy)' if clue['seat'] == spy else ''}: {clue['clue']}"
        for clue in record["clues"]
    ]
    votes = ["N/A" if vote is None else str(vote or "unparsed") for vote in record["outcome"]]
    civilians = [reward for seat, reward in enumerate(rewards, start=1) if seat != spy]
    right = record["outcome"].count(spy)
    return {
        "iteration": iteration,
        "stage": record["stage"],
        "pair": record["pair"],
        "civilians see": civilians_see,
        "spy sees": spy_sees,
        "spy": f"player {spy}",
        "clues": "\n".join(clues),
        "votes": ", ".join(votes),
        "outcome": f"{right} of {len(votes)} votes for the spy",
        "spy's reward": rewards[spy - 1],
        "civilians' reward": sum(civilians) / len(civilians),
    }

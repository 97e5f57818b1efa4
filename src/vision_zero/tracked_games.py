"""Games with their images as a table in Weights & Biases, beside the numbers that transformers logs there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from vision_zero import run_folder
from vision_zero.evaluation.seen_images import seen_images
from vision_zero.types import ImagePair

COLUMNS = (
    *("iteration", "stage", "pair", "civilians see", "spy sees", "spy", "clues", "votes", "outcome"),
    *("spy's reward", "civilians' reward"),
)
TABLE = "games"


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
        table = wandb.Table(columns=list(COLUMNS))
        for record in run_folder.read_json_lines(file)[: options.wandb_games]:
            civilians, spy = seen_images(record, self._pair_of(record))
            table.add_data(*_cells(record, iteration, wandb.Image(civilians.copy()), wandb.Image(spy.copy())))
        wandb.log({TABLE: table, "train/global_step": state.global_step})

    def _pair_of(self, record: Mapping[str, Any]) -> dict[str, ImagePair]:
        if not self._rows:
            self._rows = {pair.id: row for row, pair in enumerate(self.pairs)}
        name = record["pair"]
        return {name: self.pairs[self._rows[name]]} if name in self._rows else {}


def _cells(record: Mapping[str, Any], iteration: int, civilians_see: Any, spy_sees: Any) -> list[Any]:
    spy, rewards = record["spy"], record["clue_rewards"]
    clues = [
        f"{clue['round']}.{clue['seat']}{' (spy)' if clue['seat'] == spy else ''}: {clue['clue']}"
        for clue in record["clues"]
    ]
    votes = ["N/A" if vote is None else str(vote or "unreadable") for vote in record["outcome"]]
    civilians = [reward for seat, reward in enumerate(rewards, start=1) if seat != spy]
    right = record["outcome"].count(spy)
    return [
        iteration,
        record["stage"],
        record["pair"],
        civilians_see,
        spy_sees,
        f"player {spy}",
        "\n".join(clues),
        ", ".join(votes),
        f"{right} of {len(votes)} votes for the spy",
        rewards[spy - 1],
        sum(civilians) / len(civilians),
    ]

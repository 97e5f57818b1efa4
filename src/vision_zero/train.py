"""Train by self-play: `python -m vision_zero.train --config configs/quickstart.yaml --output_dir runs/mine`."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from accelerate import PartialState
from peft import PeftConfig
from tqdm import tqdm
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from trl import ModelConfig, TrlParser, get_peft_config

from vision_zero import run_folder
from vision_zero.config import GameConfig, IterativeSPOConfig
from vision_zero.data.pairs import BadImageError, PairSourceError, check_pairs, load_pairs
from vision_zero.models import attention_implementation, load_processor
from vision_zero.trainer import IterativeSPOTrainer
from vision_zero.types import ImagePair


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
        if not state.is_world_process_zero or "stage/is_clue" not in (logs or {}):
            return
        steps = args.optimizer_steps_per_iteration  # the numbers of an iteration are logged with its first step
        stage = "clue" if logs["stage/is_clue"] else "decision"
        tqdm.write(
            f"iteration {(state.global_step - 1) // steps + 1}/{args.iterations}  {stage:<8}"
            f"  spy found {logs['stage/accuracy']:.2f}  N/A {logs['stage/na_rate']:.2f}"
            f"  unreadable clues {logs['clues/unreadable']:.2f} votes {logs['votes/invalid']:.2f}"
            f"  reward of votes {logs['reward/vote']:+.2f} spy {logs['reward/spy']:+.2f}"
            f"  loss {logs['loss']:+.4f}  {logs['step_time']:.1f} s"
        )


def parse(arguments: list[str] | None = None) -> tuple[GameConfig, IterativeSPOConfig, ModelConfig]:
    """Flags, and a YAML file by `--config`; flags win. Unknown names in either are refused."""
    parser = TrlParser((GameConfig, IterativeSPOConfig, ModelConfig))
    game, args, model = parser.parse_args_and_config(arguments, fail_with_unknown_args=True)
    if not game.images:
        raise ValueError("no image source: give --images with one or more folders, manifests or data sets")
    if not model.model_name_or_path:
        raise ValueError("no model: give --model_name_or_path with a folder or a name on the Hub")
    return game, args, model


def resolved(game: GameConfig, args: IterativeSPOConfig, model: ModelConfig) -> dict[str, Any]:
    """Every option of the run as plain values."""
    options = {**dataclasses.asdict(game), **args.to_sanitized_dict(), **dataclasses.asdict(model)}
    plain = (int, float, str, list, type(None))
    return {key: value if isinstance(value, plain) else str(value) for key, value in options.items()}


def load_checked_pairs(game: GameConfig, main_process: bool) -> Any:
    """The training pairs; structure and 64 sampled images are checked before anything slow starts."""
    pairs = load_pairs(
        game.images if len(game.images) > 1 else game.images[0],
        columns=game.columns or None,
        split="train" if game.holdout else None,
        holdout=game.holdout,
        seed=game.holdout_seed,
        scenes=game.scenes_dir,
    )
    if main_process:
        report = check_pairs(pairs, collect=game.on_bad_image == "skip")
        opened = f"{report.n_opened} opened, {len(report.bad)} bad"
        print(f"{len(pairs)} image pairs, {report.n_edited} with an edited image; {opened}", file=sys.stderr)
    return pairs


def main(arguments: list[str] | None = None) -> None:
    game, args, model = parse(arguments)
    if args.use_cpu and args.deepspeed:
        import deepspeed

        deepspeed.init_distributed("gloo")
    state = PartialState()
    output_dir = Path(args.output_dir)
    config = resolved(game, args, model)
    checkpoint = prepare_folder(output_dir, args.resume, config, state)
    pairs = load_checked_pairs(game, state.is_main_process)
    trainer = build(game, args, model, pairs)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finish(trainer, state)


def prepare_folder(output_dir: Path, resume: bool, config: dict[str, Any], state: PartialState) -> Path | None:
    """Done by the main process, told to all; what it refuses stops all of them."""
    answer: list[Any] = [None, None]
    if state.is_main_process:
        try:
            answer[0] = run_folder.prepare(output_dir, resume)
            if resume:
                for name, (then, now) in run_folder.changed_options(output_dir, config).items():
                    print(f"resumed with {name}={now} (was {then})", file=sys.stderr)
            else:
                run_folder.describe(output_dir, config)
        except run_folder.RunFolderError as error:
            answer[1] = error
    if state.num_processes > 1:
        torch.distributed.broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def build(
    game: GameConfig, args: IterativeSPOConfig, model: ModelConfig, pairs: list[ImagePair], **kwargs: Any
) -> IterativeSPOTrainer:
    processor = load_processor(
        model.model_name_or_path, game.min_pixels, game.max_pixels, trust_remote_code=args.trust_remote_code
    )
    args.model_init_kwargs = {
        **(args.model_init_kwargs or {}),
        "dtype": "float32" if model.dtype in (None, "auto") and args.use_cpu else model.dtype,
        "attn_implementation": attention_implementation(model.attn_implementation),
        "revision": model.model_revision,
    }
    peft: PeftConfig | None = get_peft_config(model)
    trainer = IterativeSPOTrainer(
        model.model_name_or_path,
        args,
        pairs,
        game.rules(args.num_generations),
        processor,
        template=game.template,
        on_bad_image=game.on_bad_image,
        peft_config=peft,
        callbacks=[MetricsFile(), IterationLine()],
        **kwargs,
    )
    trainer.remove_callback(ProgressCallback)  # either of the two prints every logged number
    trainer.remove_callback(PrinterCallback)
    return trainer


def finish(trainer: IterativeSPOTrainer, state: PartialState) -> None:
    """Leave a complete last checkpoint with its export, and say where things are."""
    last = run_folder.checkpoint_path(trainer.args.output_dir, trainer.state.global_step)
    if not run_folder.is_complete(last):
        trainer._save_checkpoint(trainer.model, trial=None)
    if state.is_main_process:
        print(f"done: load {last / run_folder.EXPORT}; curves in {trainer.args.output_dir}/{run_folder.METRICS}")


if __name__ == "__main__":
    try:
        main()
    except (ValueError, BadImageError, PairSourceError) as error:
        sys.exit(f"error: {error}")

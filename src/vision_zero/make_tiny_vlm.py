r"""Make the tiny model: a Qwen2.5-VL of 1.6 million parameters that plays the compact game, for machines without a GPU.

    python -m vision_zero.make_tiny_vlm --out data/tiny_vlm             makes it, measures it, writes its README
    python -m vision_zero.make_tiny_vlm --measure data/tiny_vlm         measures it again

It is saved in the file layout of the hub's first release of Qwen2.5-VL (flat config.json, preprocessor_config.json), so
that it can stand for a real base model everywhere. It is taught in two parts. First questions with many answers in one
reply, which is what makes two skills appear in minutes: to see ("red is a cube, blue is not there") and to look up who
said a word. Then whole games of noisy scripted players, mixed with the same questions asked one at a time. The games
are noisy on purpose: what is left to learn is left to self-play.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from vision_zero.tiny.files import save_base, save_model
from vision_zero.tiny.measuring import measure
from vision_zero.tiny.training import Encoder, Plan, held_out_losses, train
from vision_zero.tiny.wiring import new_model

README = r"""# tiny_vlm

A Qwen2.5-VL of {parameters:.2f} million parameters (hidden 128, 4 layers, head_dim 32, vision depth 2, {vocabulary}
tokens, float32) that plays the game with the `compact` template: for tests, demonstrations and machines without a GPU.
It is no use for anything else. It is saved in the file layout of the hub's first release, which transformers 4.49 and
later read.

Made by

    python -m vision_zero.make_tiny_vlm --out {folder} --seed {seed}

in {minutes:.0f} minutes on one CPU thread: supervised training on drawn scenes and scripted games (nothing of another
model is in it). First {lesson_steps} steps of {batch_size} rows of lessons: which shape has a colour, who said a word.
Then {game_steps} steps of turns of scripted games, mixed with single questions. The games are noisy on
purpose (a fifth of the civilians' clues are random, more than half of the votes are guesses), so that there is
something left for self-play to learn.

Clues are `see red \boxed{{red cube}}` or `\boxed{{red cube}}`, and votes as `said cube \boxed{{3}}` (a word that
it holds against a player, then who said it) or `unsure \boxed{{N/A}}`. It also answers the questions "who said WORD?"
(in place of "vote:") and "what shape is COLOUR?".

Held-out loss per learnt token: {losses}.

What it does on drawings that it was not trained on, sampled at temperature 1, with 4 civilians and 2 rounds, unless
said otherwise. Intervals are 95%, by bootstrap over games (or questions). Measured again by

    python -m vision_zero.make_tiny_vlm --measure {folder}

"""


def write_readme(folder: Path, plan: Plan, seed: int, seconds: float, losses: dict[str, tuple[float, float]]) -> None:
    """The model card, without the table of what was measured."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    model = AutoModelForImageTextToText.from_pretrained(folder)
    text = README.format(
        parameters=model.num_parameters() / 1e6,
        vocabulary=config["vocab_size"],
        seed=seed,
        minutes=seconds / 60,
        lesson_steps=plan.lesson_steps,
        game_steps=plan.game_steps,
        batch_size=plan.batch_size,
        losses=", ".join(f"{kind} {loss:.3f}" for kind, (loss, _) in losses.items()),
        folder=folder,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_table(folder: Path, results: dict[str, str]) -> None:
    """Put the table at the end of the model card, in place of an older one."""
    card = folder / "README.md"
    before = card.read_text("utf-8").split("| measured |")[0] if card.exists() else "# tiny_vlm\n\n"
    table = "\n".join(f"| {name} | {value} |" for name, value in results.items())
    card.write_text(f"{before}| measured | |\n|---|---|\n{table}\n", encoding="utf-8")


def make(folder: Path, plan: Plan, seed: int) -> None:
    """Tokenizer and configuration, training, weights, model card."""
    start = time.time()
    save_base(folder)
    model, encoder = new_model(folder, seed), Encoder(folder)
    train(model, encoder, plan, seed)
    save_model(model, folder)
    losses = held_out_losses(model, encoder)
    write_readme(folder, plan, seed, time.time() - start, losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="make the model in this folder, then measure it")
    parser.add_argument("--measure", type=Path, help="measure the model in this folder and write its table again")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and rows (default 0)")
    parser.add_argument("--lesson_steps", type=int, default=Plan.lesson_steps, help="steps of lessons (default 450)")
    parser.add_argument("--game_steps", type=int, default=Plan.game_steps, help="steps of games (default 700)")
    args = parser.parse_args()
    if (args.out is None) == (args.measure is None):
        parser.error("give --out FOLDER to make the model, or --measure FOLDER to measure one")
    torch.set_num_threads(1)
    if args.out is not None:
        make(args.out, Plan(lesson_steps=args.lesson_steps, game_steps=args.game_steps), args.seed)
    results = measure(args.out or args.measure)
    for name, value in results.items():
        print(f"{name}: {value}")
    write_table(args.out or args.measure, results)


if __name__ == "__main__":
    main()

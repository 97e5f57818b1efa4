r"""Make the tiny model: a Qwen2.5-VL of 1.6 million parameters that plays the compact game, for machines without a GPU.

    python experiments/make_tiny_vlm.py --out data/tiny_vlm             makes it, measures it, writes its README
    python experiments/make_tiny_vlm.py --measure data/tiny_vlm         measures it again

It is saved in the file layout of the hub's first release of Qwen2.5-VL (flat config.json, preprocessor_config.json), so
that it can replace a real base model everywhere. Training has two parts. First a curriculum of lessons with many
answers in one completion, so that skills appear in minutes: objects of an image, who said a word, truth of claims, who
made a false claim. Then whole games of noisy scripted players, mixed with single questions. The games are noisy so that
self-play has something to improve.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tiny_vlm.files import save_base, save_model
from tiny_vlm.measuring import measure
from tiny_vlm.training import Encoder, Plan, held_out_losses, train
from tiny_vlm.wiring import new_model
from vision_zero.models import load_model

README = r"""# tiny_vlm

A Qwen2.5-VL of {parameters:.2f} million parameters (hidden 128, 4 layers, head_dim 32, vision depth 2, {vocabulary}
tokens, float32) that plays the game with the `compact` template: for tests, demonstrations and machines without a GPU.
It is no use for anything else. It is saved in the file layout of the hub's first release, which transformers 4.49 and
later read.

Made by

    python experiments/make_tiny_vlm.py --out {folder} --seed {seed}{options}

in {minutes:.0f} minutes on one CPU thread: supervised training on drawn scenes and scripted games (nothing of another
model is in it), {batch_size} rows a step.

{steps}

Lessons: which shape has a colour, which objects are there, who said a word, which claims are true, who said what is
false. Games: turns of scripted games, mixed with single questions and some of the lessons. The games are noisy on
purpose (one in twelve of the civilians' clues and three in four of the spies' are random, and so are the guesses among
the votes), so that there is something left for self-play to learn.

Clues are `see red \boxed{{red cube}}` or `\boxed{{red cube}}`, and votes as `said red \boxed{{3}}` (a word that it
holds against a player, then who said it) or `unsure \boxed{{N/A}}`. It also answers single questions, which no game
asks: "who said WORD?" (in place of "vote:"), "what shape is COLOUR?", "name one", "COLOUR SHAPE there?",
"how many SHAPE?", "which SHAPE?" (the colour of the only one).

| held-out rows | loss per learnt token |
|---|---|
{losses}

What it does on drawings that it was not trained on, sampled at temperature 0.8, with 4 civilians and 2 rounds, unless
said otherwise; questions are answered by the likeliest tokens. Intervals are 95%, by bootstrap over games (or
questions). Measured again by

    python experiments/make_tiny_vlm.py --measure {folder}

"""


def write_readme(
    folder: Path,
    plans: Sequence[Plan],
    seed: int,
    start: Path | None,
    seconds: float,
    losses: dict[str, tuple[float, float]],
) -> None:
    """Write the model card, without the table of measurements."""
    config = json.loads((folder / "config.json").read_text("utf-8"))
    model = load_model(folder)
    last = plans[-1]
    options = f" --lesson_steps {last.lesson_steps} --game_steps {last.game_steps} --guesses {last.guesses}"
    text = README.format(
        parameters=model.num_parameters() / 1e6,
        vocabulary=config["vocab_size"],
        seed=seed,
        options=f" --start {start}{options}" if start else "",
        minutes=seconds / 60,
        steps="\n".join(
            f"* {plan.lesson_steps} steps of lessons, {plan.game_steps} of games with {plan.guesses:.0%} of guesses"
            for plan in plans
        ),
        batch_size=last.batch_size,
        losses="\n".join(f"| {kind} | {loss:.3f} |" for kind, (loss, _) in losses.items()),
        folder=folder,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def write_table(folder: Path, results: dict[str, str]) -> None:
    """Write the table of measurements to the end of the model card, in place of an older one."""
    card = folder / "README.md"
    before = card.read_text("utf-8").split("| measured |")[0] if card.exists() else "# tiny_vlm\n\n"
    table = "\n".join(f"| {name} | {value} |" for name, value in results.items())
    card.write_text(f"{before}| measured | |\n|---|---|\n{table}\n", encoding="utf-8")


TAUGHT = (Plan(), Plan(lesson_steps=0, game_steps=700, guesses=0.2))
"""Training of data/tiny_vlm: two plans in turn, each with an optimizer of its own."""


def make(folder: Path, plans: Sequence[Plan], seed: int, start: Path | None = None) -> None:
    """Write tokenizer, configuration, trained weights and model card. The examples of plan n have seed + n."""
    began = time.time()
    started = None if start is None else load_model(start, dtype="float32")
    save_base(folder)
    encoder = Encoder(folder)
    model = new_model(folder, seed) if started is None else started
    for number, plan in enumerate(plans):
        train(model, encoder, plan, seed + number)
    save_model(model, folder)
    losses = held_out_losses(model, encoder)
    write_readme(folder, plans, seed, start, time.time() - began, losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="make the model in this folder, then measure it")
    parser.add_argument("--measure", type=Path, help="measure the model in this folder and write its table again")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and examples (default 0)")
    parser.add_argument("--start", type=Path, help="go on from this tiny model, by one plan of the options below")
    parser.add_argument("--lesson_steps", type=int, help="with --start: steps of lessons (0)")
    parser.add_argument("--game_steps", type=int, help="with --start: steps of games (700)")
    parser.add_argument("--guesses", type=float, help="with --start: share of taught votes that are guesses (0.2)")
    parser.add_argument("--overwrite", action="store_true", help="make it again in a folder that is not empty")
    args = parser.parse_args()
    check(parser, args)
    torch.set_num_threads(1)
    try:
        if args.out is not None:
            given = {name: getattr(args, name) for name in OF_START if getattr(args, name) is not None}
            plan = Plan(**{"lesson_steps": 0, "game_steps": 700, "guesses": 0.2, **given})
            make(args.out, (plan,) if args.start else TAUGHT, args.seed, args.start)
        results = measure(args.out or args.measure)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    for name, value in results.items():
        print(f"{name}: {value}")
    write_table(args.out or args.measure, results)


OF_START = ("lesson_steps", "game_steps", "guesses")


def check(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit for options that do not fit, before anything is written."""
    if (args.out is None) == (args.measure is None):
        parser.error("give --out FOLDER to make the model, or --measure FOLDER to measure one")
    if args.measure is not None and (args.start or args.overwrite):
        parser.error("--start and --overwrite go with --out")
    for name in OF_START:
        value = getattr(args, name)
        if value is None:
            continue
        if not args.start:
            parser.error(f"--{name} {value} goes with --start: without it, the model is taught as data/tiny_vlm was")
        if not 0 <= value <= (1 if name == "guesses" else float("inf")):
            parser.error(f"--{name} {value} must be {'in 0..1' if name == 'guesses' else 'at least 0'}")
    if args.out is not None and args.out.exists() and not args.out.is_dir():
        parser.error(f"--out {args.out} is a file; give a folder")
    if args.out is not None and args.out.is_dir() and any(args.out.iterdir()) and not args.overwrite:
        parser.error(f"--out {args.out} is not empty; choose another folder, or make it again with --overwrite")


if __name__ == "__main__":
    main()

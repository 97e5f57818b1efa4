"""The options of `win-rate` and `cross-play`: flags, and where they are silent, those of the first model's run."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import HfArgumentParser

from vision_zero.config.game import GameConfig, Precision, option
from vision_zero.data.contamination import shared_ids
from vision_zero.data.pairs import PairSourceError
from vision_zero.game.prompts import load_template
from vision_zero.models import run_of
from vision_zero.models.hub import check_place
from vision_zero.rollout.policy import TokenLimits, TokenLimitsByStage
from vision_zero.run_folder import CONFIG, REMOVED_OPTIONS, REPLACED, read_config, without_removed_options
from vision_zero.types import GameRules

if TYPE_CHECKING:
    from vision_zero.rollout.load_policy import Loading

OF_IMAGES = ("images", "scenes_dir", "columns", "pair_by", "split", "holdout")
"""Options taken from the run together or not at all: a run's split says nothing about other images."""
SETTING = (
    *("reference", "template", "civilians", "rounds", "spy_view", "mask_share", "voter", "votes"),
    *("temperature", "top_k", "top_p", "min_clue_tokens", "max_clue_tokens", "min_vote_tokens", "max_vote_tokens"),
    *("min_pixels", "max_pixels"),
)
"""Options on which the runs of models that play together must agree."""
RENAMED = {"model_name_or_path": "reference", "num_generations": "votes"}


@dataclass
class PlayConfig:
    """Players, number of games, and sampling."""

    plays_of_a_deal: ClassVar[int] = 1  # of `games`
    reference: str | None = option(None, "Frozen model to play against; none: the model that the run started from")
    drawn: int = option(0, "Play on so many freshly drawn scenes, which no training uses, in place of --images")
    games: int = option(500, "Games of every pair of civilians and voters, on as many deals, the same for all")
    votes: int = option(8, "Votes per game, G")
    temperature: float = option(0.8, "Sampling temperature; 0: the likeliest token")
    top_k: int = option(50, "Sample among the k likeliest tokens; 0: all")
    top_p: float = option(1.0, "Sample among the likeliest tokens of this mass")
    max_clue_tokens: int = option(512, "Longest completion with a clue")
    min_clue_tokens: int = option(0, "Shortest completion with a clue")
    max_vote_tokens: int = option(512, "Longest completion with a vote")
    min_vote_tokens: int = option(0, "Shortest completion with a vote")
    rollout_batch_size: int = option(256, "Completions generated at once, and games whose images are open at once")
    seed: int = option(0, "Seed of the deals and of what is sampled")
    dtype: Precision = option("auto", "Precision; auto: float32 on a CPU, else the model's own")
    use_cpu: bool = option(False, "Do not use a GPU")
    out: str | None = option(None, "JSONL file to append a line to: of win-rate one per model")


@dataclass
class WinRateConfig(PlayConfig):
    plays_of_a_deal = 2
    games: int = option(1000, "Games of the win rate: every deal is played twice, once with each model as the spy")
    other_seed: str | None = option(None, "Model of another seed, to play beside the evaluated one's players")
    cross_play: bool = option(True, "Also mix new and frozen players at one table, to tell skill from a private code")


@dataclass(frozen=True)
class PlayOptions:
    """Checked options. `models` are the names as given."""

    models: list[str]
    game: GameConfig
    config: PlayConfig
    rules: GameRules
    token_limits: TokenLimitsByStage
    loading: Loading

    def settings(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self.game), **dataclasses.asdict(self.config)}


def parse(arguments: Sequence[str], command: str = "win-rate") -> PlayOptions:
    """Options from flags, else from the first model's run. Raises ValueError for what is missing or does not fit."""
    parser = HfArgumentParser(
        [GameConfig, PlayConfig if command == "cross-play" else WinRateConfig],
        prog=f"python -m vision_zero.evaluate {command}",
        description="Play trained models against a frozen one.",
        allow_abbrev=False,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="run folders, checkpoints, exports, models")
    named, _ = parser.parse_known_args(arguments)
    for name in named.models:
        check_place(name)
    runs = list(dict.fromkeys(folder for folder in map(run_of, named.models) if folder is not None))
    run = runs[0] if runs else None
    options = {} if run is None else run_options(run, parser)
    own_images = bool(named.images or named.drawn)
    if command == "cross-play":
        check_same(runs, parser, SETTING if own_images else SETTING + OF_IMAGES, arguments)
    of_images = {name: options[name] for name in OF_IMAGES if name in options}
    if own_images:
        options = {name: value for name, value in options.items() if name not in OF_IMAGES}
    parser.set_defaults(**options)
    game, config, rest = parser.parse_args_into_dataclasses(list(arguments))
    if named.drawn:
        if named.images:
            raise ValueError("--drawn and --images are two sources; give one")
        game.images = [f"drawn:{config.drawn}@heldout"]
    if not game.images:
        raise ValueError("nothing to play on: give --images with one or more sources, or --drawn COUNT")
    if not own_images and not game.holdout:
        raise ValueError(f"{run} held no images out (holdout is 0): give --drawn COUNT, or --images with others")
    if named.images and trained_on(GameConfig(**of_images), game):
        print("note: these are images that the run was trained on; --holdout plays on a part", file=sys.stderr)
    if config.reference is None:
        raise ValueError("no frozen model to play against: give --reference")
    if config.rollout_batch_size < 1:
        raise ValueError(f"rollout_batch_size={config.rollout_batch_size} must be at least 1")
    if config.games % (each := config.plays_of_a_deal) or config.games < 2 * each:
        even = "even, as every deal is played twice, and " if each == 2 else ""
        raise ValueError(f"games={config.games} must be {even}at least {2 * each}")
    if game.template != "auto":
        load_template(game.template)
    rules = game.rules(config.votes)
    clue = TokenLimits(config.min_clue_tokens, config.max_clue_tokens)
    vote = TokenLimits(config.min_vote_tokens, config.max_vote_tokens)
    from vision_zero.rollout.load_policy import Loading  # takes seconds
    from vision_zero.rollout.sampling import Sampling

    sampling, bounds = Sampling(config.temperature, config.top_k, config.top_p), (game.min_pixels, game.max_pixels)
    loading = Loading(sampling, config.rollout_batch_size, *bounds, config.dtype, config.use_cpu)
    return PlayOptions(rest.models, game, config, rules, {"clue": clue, "decision": vote}, loading)


def check_same(runs: Sequence[Path], parser: HfArgumentParser, names: Sequence[str], arguments: Sequence[str]) -> None:
    """Raises ValueError for an option on which two runs differ and which no flag gives."""
    flags = {word.partition("=")[0].replace("-", "_") for word in arguments}
    options = [run_options(run, parser) for run in runs]
    for name, (run, theirs) in product(names, zip(runs, options, strict=True)):
        if theirs.get(name) != (ours := options[0].get(name)) and f"__{name}" not in flags:
            said = f"{runs[0]} has {name}={ours}, and {run} has {theirs.get(name)}"
            raise ValueError(f"{said}: give --{name}, with which all are played, or models of one setting")


def run_options(run: Path, parser: HfArgumentParser) -> dict[str, Any]:
    """Options of a run that `parser` knows, by the parser's names. Raises ValueError with file and option."""
    from vision_zero.config.parse import checked

    actions = {action.dest: action for action in reversed(parser._actions)}
    values = {}
    for name, value in without_removed_options(read_config(run)).items():
        if name in REMOVED_OPTIONS.keys() - REPLACED:
            raise ValueError(f"{run / CONFIG} has {name}={value}, which is always {REMOVED_OPTIONS[name]} today")
        known = RENAMED.get(name, name)
        if known in actions and name not in (*RENAMED.values(), "seed", "dtype", "use_cpu", "models"):
            values[known] = checked(actions[known], value, f"{run / CONFIG} has {name}")
    return values


def trained_on(training: GameConfig, playing: GameConfig) -> bool:
    """Whether pairs to play on were trained on; by the names of their sources where these can no longer be read."""
    if not training.images:
        return False
    try:
        pairs = training.pairs("train")
    except (PairSourceError, OSError):
        return not playing.holdout and bool(set(playing.images) & set(training.images))
    return bool(shared_ids(playing.pairs("heldout"), pairs))

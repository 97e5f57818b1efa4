"""Values shared by all modules: image pairs, games, turns, completions.

Frozen dataclasses of plain values. This module imports nothing of the package.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image

Vote = int | None
"""Parsed vote: seat 1..n, `None` for N/A, or 0 for an invalid vote, which counts for nobody."""

Stage = Literal["decision", "clue"]
View = Literal["civilian", "spy"]
SpyView = Literal["auto", "blank", "edited", "masked"]
Voter = Literal["observer", "civilian"]
FailedEdit = Literal["blank", "identical"]
Domain = str
"""Name of a template file, which words the prompts of a game on such images. One of `DOMAINS`."""

TEMPLATES = Path(__file__).parent / "game" / "templates"
COMPACT = "compact"
"""The template of the tiny model, for images of any domain."""
DOMAINS: tuple[Domain, ...] = tuple(sorted({file.stem for file in TEMPLATES.glob("*.txt")} - {COMPACT}))


class Role(StrEnum):
    SPY = "spy"
    CIVILIAN = "civilian"


class ImageSource(Protocol):
    """Image that is opened on demand."""

    @property
    def name(self) -> str:
        """Name in error messages: a path, or data set, row and column."""

    def open(self) -> Image.Image:
        """The whole image, decoded, RGB. Raises `vision_zero.data.pairs.BadImageError` with `name` in the message."""


@dataclass(frozen=True)
class ImagePair:
    """Images of one game: the civilians' image and, if there is one, its edited version.

    `id` is unique in its source and stable between runs. `meta` holds the source's own annotations (scene descriptions,
    change logs), which training does not read. `failed_edit` tells how `edited` was made worse on purpose.
    """

    id: str
    image: ImageSource
    edited: ImageSource | None = None
    domain: Domain = "photos"
    meta: Mapping[str, Any] = field(default_factory=dict)
    failed_edit: FailedEdit | None = None


@dataclass(frozen=True)
class GameRules:
    """Rules of a game: 2..8 civilians and one spy, 1..5 clue rounds."""

    n_civilians: int = 4
    n_rounds: int = 2
    spy_view: SpyView = "auto"
    voter: Voter = "observer"
    n_votes: int = 8
    mask_share: float = 0.5

    def __post_init__(self) -> None:
        if not 2 <= self.n_civilians <= 8:
            raise ValueError(f"n_civilians must be 2 to 8, got {self.n_civilians}")
        if not 1 <= self.n_rounds <= 5:
            raise ValueError(f"n_rounds must be 1 to 5, got {self.n_rounds}")
        if self.n_votes < 1:
            raise ValueError(f"n_votes (votes per game, G) must be at least 1, got {self.n_votes}")
        if self.voter == "civilian" and self.n_votes % self.n_civilians:
            raise ValueError(
                f"voter=civilian gives every civilian G / n_c votes, but n_votes={self.n_votes} is not a multiple of "
                f"n_civilians={self.n_civilians}"
            )
        if not 0 < self.mask_share <= 1:
            raise ValueError(f"mask_share must be in (0, 1], got {self.mask_share}")

    @property
    def n_players(self) -> int:
        return self.n_civilians + 1

    @property
    def n_turns(self) -> int:
        return self.n_players * self.n_rounds + self.n_votes


@dataclass(frozen=True)
class Turn:
    """One request to one player: a clue or a vote.

    Clue turns: `round` 1..n_rounds, `seat` 1..n_players, `sample` 0. Vote turns: `round` 0, `sample` 0..G-1 and the
    civilian's `seat`, or seat 0 for the neutral observer.
    """

    game: int
    stage: Stage
    round: int
    seat: int
    sample: int


@dataclass(frozen=True)
class Completion:
    """Answer of a policy: text, and for model policies the exact tokens and their log-probabilities.

    `prompt_ids` are the expanded prompt (image placeholders included), `token_ids` the sampled tokens with the end
    token if one was sampled, `logprobs` one number per token: log softmax(logits / temperature), as in training (top-k
    and banned tokens restrict sampling, not this number). Empty for scripted players, whose turns cannot be trained on.
    """

    text: str
    prompt_ids: tuple[int, ...] = ()
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    seconds: float = 0.0
    frozen: bool = False  # of a player that does not train: never trained on


@dataclass(frozen=True)
class Clue:
    """Answered clue turn. `text` is public, `reasoning` stays private."""

    turn: Turn
    completion: Completion
    text: str
    reasoning: str
    parsed: bool


@dataclass(frozen=True)
class CastVote:
    turn: Turn
    completion: Completion
    vote: Vote

    @property
    def parsed(self) -> bool:
        """The completion holds a vote, for a seat or N/A."""
        return self.vote != 0


@dataclass(frozen=True)
class Game:
    """One game: its deal and all answered turns. `index` k and the run seed determine the deal."""

    index: int
    seed: int
    pair: ImagePair
    rules: GameRules
    spy: int
    spy_view: Literal["blank", "edited", "masked"]
    clues: tuple[Clue, ...] = ()
    votes: tuple[CastVote, ...] = ()

    def role(self, seat: int) -> Role:
        """Raises ValueError for a seat that is not in 1..n_players."""
        if not 1 <= seat <= self.rules.n_players:
            raise ValueError(f"seat {seat} is not in 1..{self.rules.n_players}")
        return Role.SPY if seat == self.spy else Role.CIVILIAN


@dataclass(frozen=True)
class Prompt:
    """Input of a player: one image (by the game's view), then text."""

    view: View
    text: str


@dataclass(frozen=True)
class GameSummary:
    """Result of a finished game, exchanged between processes. Lengths are sampled tokens per completion.

    `clues`: the texts of the parsed ones, in lower case with single spaces.
    """

    game: int
    spy: int
    n_players: int
    votes: tuple[Vote, ...]
    unparsed_clues: int
    clue_lengths: tuple[int, ...]
    vote_lengths: tuple[int, ...]
    clues: tuple[str, ...] = ()

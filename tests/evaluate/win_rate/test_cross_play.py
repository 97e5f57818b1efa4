"""Cross-play of several models: convention and skill by hand, two models in memory, and the command with real ones."""

from __future__ import annotations

import gc
import re
import shutil
import weakref
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.process_helpers import DRAWN, TINY_VLM
from tests.tiny_games import noise_pairs
from tiny_vlm.scripted import FunctionPlayer, NoisyPlayer, OraclePlayer
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.evaluate.__main__ import main
from vision_zero.evaluate.bootstrap import students_t
from vision_zero.evaluate.win_rate.arena import Arena, GameOutcome, Matchup, OutcomesByMatchup, make_arena
from vision_zero.evaluate.win_rate.cross_play import cross_play_figures, distinct_models, play_every_pair
from vision_zero.evaluate.win_rate.match import CachedPolicy
from vision_zero.rollout import load_policy
from vision_zero.rollout.policy import Policy, TokenLimits, TurnRequest
from vision_zero.run_folder import checkpoint_path, mark_complete, read_json_lines
from vision_zero.types import Completion, GameRules, GameSummary

RULES = GameRules(n_civilians=2, n_rounds=2, n_votes=3)
LIMITS: Any = {"clue": TokenLimits(0, 8), "decision": TokenLimits(0, 8)}
NAMES = ["start", "1", "2", "3"]


class Loaded:
    """A scripted player as if it were a model with caches."""

    def __init__(self, inner: Policy) -> None:
        self.inner, self.forgotten = inner, 0

    def answer(self, requests: Sequence[TurnRequest]) -> list[Completion]:
        return self.inner.answer(requests)

    def forget(self) -> None:
        self.forgotten += 1


def speaking(word: str) -> FunctionPlayer:
    """Its clues have a word of its own; it votes for who says none of its kind, else for the first seat."""

    def vote(request: TurnRequest, rng: Any) -> int:
        words = {clue.turn.seat: clue.text for clue in request.game.clues}
        strange = [seat for seat, said in words.items() if said != word]
        return strange[0] if len(strange) == 1 else 1

    return FunctionPlayer(lambda request, rng: word, vote)


def arena_of(n_deals: int = 30) -> Arena:
    return make_arena(noise_pairs(7), RULES, LIMITS, n_deals=n_deals, games_at_once=64)


def played(arena: Arena, inner: dict[str, Policy]) -> tuple[OutcomesByMatchup, dict[str, CachedPolicy]]:
    load: Callable[[str], Any] = lambda name: Loaded(inner[name])  # noqa: E731
    return play_every_pair(arena, list(inner), load, lambda turns: None)


def test_a_private_code_is_convention_and_no_skill() -> None:
    """Voters who know the civilians' word always find the spy, others vote for the first seat, where a spy may sit."""
    arena = arena_of()
    results, _ = played(arena, {name: speaking(name) for name in NAMES})
    found, figures, over_models = cross_play_figures(results, NAMES)
    first = sum(deal.spy == 1 for deal in arena.deals) / len(arena.deals)
    assert 0 < first < 1
    expected = {(i, j): 1.0 if i == j and i != "start" else first for i, j in product(NAMES, NAMES)}
    # The spy is the start: among civilians who speak the start's word, nobody is strange.
    assert {(i, j): found[i][j].value for i, j in expected} == pytest.approx(expected)
    assert figures["convention"].value == pytest.approx(1 - first)
    assert figures["skill"].value == pytest.approx(0)
    assert over_models["convention"].value == pytest.approx(1 - first)
    assert over_models["convention"].low is None  # models that are alike say nothing of others


def test_players_who_share_a_language_have_skill_and_no_convention() -> None:
    inner: dict[str, Policy] = {name: speaking("same") for name in NAMES[1:]}
    results, _ = played(arena_of(), {"start": speaking("start"), **inner})
    _, figures, _ = cross_play_figures(results, NAMES)
    assert figures["convention"].value == 0
    assert figures["skill"].value == pytest.approx(1 - figures["start"].value)


def outcomes(found: float, n_deals: int = 100) -> list[GameOutcome]:
    """Games on as many pairs, a share of which is found."""
    return [
        GameOutcome(GameSummary(n, 1, 3, (1 if n < round(found * n_deals) else 2,), 0, (1,), (1,)), f"pair{n}")
        for n in range(n_deals)
    ]


def test_figures_by_hand() -> None:
    """Own voters: the mean of .9 .8 .7. Others: that of .6 .5 .4 .3 .2 .1."""
    table = [[0.3, 0.3, 0.3, 0.3], [0.3, 0.9, 0.6, 0.5], [0.3, 0.4, 0.8, 0.3], [0.3, 0.2, 0.1, 0.7]]
    results = {
        Matchup(i, "start", j): outcomes(table[row][column])
        for (row, i), (column, j) in product(enumerate(NAMES), enumerate(NAMES))
    }
    found, figures, over_models = cross_play_figures(results, NAMES)
    assert [[found[i][j].value for j in NAMES] for i in NAMES] == table
    values = {name: interval.value for name, interval in figures.items()}
    wanted = {"convention": 0.45, "skill": 0.05, "own voters": 0.8, "other voters": 0.35, "start": 0.3}
    assert values == pytest.approx(wanted)
    # Conventions without 1, 2, 3: .75 - .2, .8 - .35, .85 - .5. Their mean is .45, their spread sqrt(.02 / 3).
    half = students_t(2) * (2 / 3 * 0.02) ** 0.5
    convention = over_models["convention"]
    assert (convention.low, convention.high) == (pytest.approx(0.45 - half), pytest.approx(0.45 + half))
    assert students_t(2) == pytest.approx(4.303, rel=0.035)
    assert cross_play_figures(results, NAMES[:3])[2] == {}  # two models say nothing of others


def test_a_pair_resamples_all_its_deals() -> None:
    results = {Matchup(i, "start", j): outcomes(0.5) for i, j in product(NAMES[:3], NAMES[:3])}
    one_pair = {m: [GameOutcome(o.summary, "the same") for o in some] for m, some in results.items()}
    assert cross_play_figures(one_pair, NAMES[:3])[1]["convention"].low is None


def test_two_models_in_memory_give_what_all_at_once_would() -> None:
    """Equal outcomes, from as few completions: a model's clues once, and its votes once on the clues of each."""
    arena = make_arena(drawn_pairs(range(9)), RULES, LIMITS, n_deals=12, games_at_once=64)
    inner: dict[str, Policy] = {name: NoisyPlayer(OraclePlayer(), 0.2 * n) for n, name in enumerate(NAMES)}
    alive: dict[str, Any] = {}
    loaded: list[str] = []

    def load(name: str) -> Any:
        assert [one for one, model in alive.items() if model() is not None and one != "start"] == []
        loaded.append(name)
        player = Loaded(inner[name])
        alive[name] = weakref.ref(player)
        return player

    turns: list[int] = []
    results, players = play_every_pair(arena, NAMES, load, turns.append)
    assert loaded == ["start", "1", "2", "3", "1", "2"]
    assert sum(turns) == len(results) * len(arena.deals) * RULES.n_turns
    together = arena.play([Matchup(i, "start", j) for i, j in product(NAMES, NAMES)], inner)
    assert results == together
    clues, votes = RULES.n_players * RULES.n_rounds, RULES.n_votes
    # Each of n civilians with the start as the spy is a set of clues, which n voters vote on.
    most = len(arena.deals) * len(NAMES) * (clues + len(NAMES) * votes)
    assert 0.5 * most < sum(len(player.cache) for player in players.values()) <= most
    assert all(player.policy is None for name, player in players.items() if name != "start")


def test_a_player_without_its_model_answers_nothing_new() -> None:
    arena = arena_of(4)
    with pytest.raises(RuntimeError, match="turns were not played while the model was in memory"):
        arena.play([Matchup("a", "a", "a")], {"a": CachedPolicy(None)})


# ------------------------------------------------------------------------------------------------------- the command

QUICK = (
    *("--template", "compact", "--civilians", "2", "--rounds", "1", "--votes", "2", "--max_clue_tokens", "8"),
    *("--max_vote_tokens", "8", "--max_pixels", str(56 * 56), "--use_cpu", "--games", "6", "--drawn", "8"),
)


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Three models beside the tiny one: its weights with a little noise."""
    folder = tmp_path_factory.mktemp("models")
    for number in range(3):
        shutil.copytree(TINY_VLM, folder / f"other{number}")
        file, generator = folder / f"other{number}" / "model.safetensors", torch.Generator().manual_seed(number)
        noisy = {
            name: weight + 0.05 * weight.abs().mean() * torch.randn(weight.shape, generator=generator)
            for name, weight in load_file(file).items()
        }
        save_file(noisy, file, metadata={"format": "pt"})
    return sorted(map(str, folder.iterdir()))


def test_the_command(
    others: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: list[Any] = []
    real = load_policy.load_player

    def load_player(model: str, *more: Any) -> load_policy.ModelPlayer:
        gc.collect()
        assert sum(ref() is not None for ref in alive) <= 1, "more than the start and the model that is loaded"
        player = real(model, *more)
        alive.append(weakref.ref(player.policy.model))
        return player

    monkeypatch.setattr(load_policy, "load_player", load_player)
    out = tmp_path / "out.jsonl"
    words = (*others, "--reference", str(TINY_VLM), *QUICK, "--out", str(out))
    main(["cross-play", *words])
    (line,) = read_json_lines(out)
    assert line["models"] == {"start": str(TINY_VLM), **{str(n): one for n, one in enumerate(others, start=1)}}
    assert {(i, j) for i, row in line["found"].items() for j in row} == {*product(NAMES, NAMES)}
    assert {"convention", "skill"} == line["over_models"].keys() < line["figures"].keys()
    assert line["play"]["2"].keys() >= {f"grounding/civilian/{name}" for name in ("true", "copied", "no_claim")}
    assert (line["games"], line["settings"]["games"], line["settings"]["votes"]) == (6, 6, 2)
    assert len(alive) == 6
    printed = capsys.readouterr().out
    for wanted in (
        r"^convention +-?\d",
        r"^skill +-?\d",
        r"^3 +[01]\.\d",
        rf"^1 +{others[0]}$",
        r"^\d+ completions, in",
    ):
        assert re.search(wanted, printed, re.MULTILINE), wanted
    monkeypatch.undo()
    # The matrix is that of the win rate's own machine: the same deals, seeds and players.
    main(["win-rate", others[0], *words[3:-2], "--games", "12", "--out", str(tmp_path / "win.jsonl")])
    (win,) = read_json_lines(tmp_path / "win.jsonl")
    assert win["figures"]["as_table"] == line["found"]["1"]["1"]
    assert win["figures"]["start_as_table"] == line["figures"]["start"] == line["found"]["start"]["start"]


REFERENCE = ("--reference", str(TINY_VLM))


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("{0}", *REFERENCE), "{0} has no other to play with: give two models or more"),
        (("{0}", "{1}", "{0}/../other0", *REFERENCE), "{0}/../other0 is named twice, also as {0}"),
        (("{0}", str(TINY_VLM), *REFERENCE), f"{TINY_VLM} is named twice, also as --reference"),
        (("{0}", "{1}"), "no frozen model to play against: give --reference"),
        (("{0}", "{1}", *REFERENCE, "--games", "1"), "games=1 must be at least 2"),
        (("{0}", "{0}s", *REFERENCE), "model {0}s: there is no such folder"),
        (("{0}", "{1}", *REFERENCE, "--out", "/proc/x/y"), "--out /proc/x/y: cannot be written"),
        (("{0}", "{1}", *REFERENCE, "--images", str(DRAWN)), "two sources"),
    ],
)
def test_what_cannot_be_played_is_refused_in_one_line(words: tuple[str, ...], says: str, others: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["cross-play", *QUICK, *(word.format(*others) for word in words)])
    message = str(stopped.value)
    assert message.startswith("error: ")
    assert says.format(*others) in message
    assert "\n" not in message


def run_of(folder: Path, **options: Any) -> Path:
    """A run with two checkpoints, which are the tiny model."""
    settings = {"images": "drawn:8", "holdout": 0.5, "template": "compact", "civilians": 2, "rounds": 1,
                "num_generations": 2, "model_name_or_path": str(TINY_VLM), **options}  # fmt: skip
    for step in (1, 2):
        shutil.copytree(TINY_VLM, checkpoint_path(folder, step))
        mark_complete(checkpoint_path(folder, step))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def test_of_a_run_its_last_checkpoint_plays(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run")
    assert distinct_models("start", [str(run), str(run / "checkpoint-1")])["1"] == str(run / "checkpoint-2")
    (run / "checkpoint-2" / "export").mkdir()
    with pytest.raises(ValueError, match="checkpoint-2/export is named twice, also as"):
        distinct_models("start", [str(run), str(run / "checkpoint-2" / "export")])


@pytest.mark.parametrize(
    ("option", "flag"),
    [
        ({"civilians": 3}, ("civilians", "2")),
        ({"template": "scenes"}, ("template", "compact")),
        ({"model_name_or_path": "elsewhere"}, ("reference", str(TINY_VLM))),
        ({"holdout": 0.25}, ("holdout", "0.5")),
        ({"num_generations": 4}, ("votes", "2")),
    ],
)
def test_runs_of_two_settings_play_under_one_that_is_asked_for(
    option: dict[str, Any], flag: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class ReachedError(ValueError):
        pass

    def load_player(*_: object) -> None:
        raise ReachedError("a model was loaded")

    monkeypatch.setattr(load_policy, "load_player", load_player)
    runs = [str(run_of(tmp_path / "one")), str(run_of(tmp_path / "two", **option))]
    with pytest.raises(SystemExit, match=f"two has .*: give --{flag[0]}, with which all are played"):
        main(["cross-play", *runs])
    with pytest.raises(SystemExit, match="a model was loaded"):
        main(["cross-play", *runs, f"--{flag[0]}", flag[1]])
    with pytest.raises(SystemExit, match="a model was loaded"):
        main(["cross-play", runs[0], str(run_of(tmp_path / "three"))])

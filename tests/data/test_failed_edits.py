"""Edits that fail on purpose: which, how, and that nothing else changes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.drawn_files import write_pairs
from tests.tiny_games import play_out
from vision_zero.data.drawn_scenes import drawn_pairs
from vision_zero.data.failed_edits import PairsWithFailedEdits, failed_edit
from vision_zero.data.pairs import PairSourceError, load_pairs, open_pair
from vision_zero.game.spy_game import deal
from vision_zero.report.plots import seen_images
from vision_zero.rollout.game_images import open_images
from vision_zero.rollout.record import game_record
from vision_zero.types import GameRules, ImagePair

N = 400


def test_share_and_kinds_are_as_said() -> None:
    """Of 400 pairs at 20%: 80 expected with a deviation of 8, half of each kind; four deviations allowed."""
    pairs = PairsWithFailedEdits(drawn_pairs(range(N)), 0.2, seed=0)
    counts = pairs.counts()
    assert abs(sum(counts.values()) - 80) < 32
    assert abs(counts["blank"] - 40) < 24
    assert counts["blank"] == sum(pair.failed_edit == "blank" for pair in pairs)


def test_what_the_spy_would_see() -> None:
    clean = drawn_pairs(range(60))
    noisy = PairsWithFailedEdits(clean, 0.5, seed=0)
    kinds = set()
    for before, after in zip(clean, noisy, strict=True):
        (original, edited), (same, seen) = open_pair(before), open_pair(after)
        assert edited is not None
        assert seen is not None
        assert same.tobytes() == original.tobytes()
        assert (after.id, after.meta, after.domain) == (before.id, before.meta, before.domain)
        expected = {
            None: edited.tobytes(),
            "identical": original.tobytes(),
            "blank": bytes((127,)) * 3 * 112 * 112,
        }
        assert seen.size == (112, 112)
        assert seen.tobytes() == expected[after.failed_edit]
        kinds.add(after.failed_edit)
    assert kinds == {None, "blank", "identical"}


@given(st.text(max_size=20), st.floats(0, 1), st.floats(0, 1), st.integers(0, 99))
def test_a_pure_function_that_grows_with_the_share(pair_id: str, one: float, other: float, seed: int) -> None:
    low, high = sorted((one, other))
    assert failed_edit(pair_id, low, seed) == failed_edit(pair_id, low, seed)
    if failed_edit(pair_id, low, seed) is not None:
        assert failed_edit(pair_id, high, seed) == failed_edit(pair_id, low, seed)
    assert failed_edit(pair_id, 0.0, seed) is None
    assert failed_edit(pair_id, 1.0, seed) is not None


def test_another_seed_fails_other_pairs() -> None:
    kinds = [[failed_edit(f"p{k}", 0.5, seed) for k in range(50)] for seed in (0, 1)]
    assert kinds[0] != kinds[1]


def test_single_images_stay_as_they_are() -> None:
    single = [ImagePair("one", drawn_pairs([1])[0].image)]
    assert PairsWithFailedEdits(single, 1.0, seed=0)[0] == single[0]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(PairSourceError, match=f"got {share}"):
        PairsWithFailedEdits([], share, seed=0)


def test_the_record_says_it() -> None:
    pairs = PairsWithFailedEdits(drawn_pairs(range(20)), 0.5, seed=0)
    rules = GameRules(n_civilians=2, n_rounds=1, n_votes=2)
    games = [play_out(deal(k, 0, pairs[k], rules), lambda turn: "\\boxed{1}") for k in range(20)]
    images = open_images(games)
    for game, pair in zip(games, pairs, strict=True):
        line = game_record(
            game, step=0, stage="clue", template="compact", clue_rewards=[], clue_advantages=[], vote_rewards=[0, 0]
        )
        assert line["failed_edit"] == pair.failed_edit
        assert (line["edited"] == line["image"]) == (pair.failed_edit == "identical")
        same = images[game.index, "civilian"].tobytes() == images[game.index, "spy"].tobytes()
        assert same == (pair.failed_edit == "identical")


def test_a_drawn_game_shows_the_blank_image(tmp_path: Path) -> None:
    write_pairs(tmp_path, 1, seed=5)
    pair = PairsWithFailedEdits(load_pairs(tmp_path), 1.0, seed=next(s for s in range(99) if kind_of(s) == "blank"))[0]
    rules = GameRules(n_civilians=2, n_rounds=1, n_votes=2)
    game = play_out(deal(0, 0, pair, rules), lambda turn: "\\boxed{1}")
    line = game_record(
        game, step=0, stage="clue", template="compact", clue_rewards=[], clue_advantages=[], vote_rewards=[0, 0]
    )
    civilian, spy = seen_images(line)
    assert civilian.tobytes() == open_pair(pair)[0].tobytes()
    assert spy.getextrema() == ((127, 127),) * 3


def kind_of(seed: int) -> str | None:
    return failed_edit("drawn_000", 1.0, seed)


def test_training_counts_and_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from vision_zero.config.game import GameConfig
    from vision_zero.train import load_checked_pairs

    write_pairs(tmp_path, 12, seed=5)
    pairs, _ = load_checked_pairs(GameConfig(images=[str(tmp_path)], failed_edits=0.5), main_process=True)
    kinds = [pair.failed_edit for pair in pairs]
    said = f"{kinds.count('blank')} blank, {kinds.count('identical')} identical of 12 (50% asked for)"
    assert said in capsys.readouterr().err
    assert 0 < sum(kind is not None for kind in kinds) < 12
    load_checked_pairs(GameConfig(images=[str(tmp_path)]), main_process=True)
    assert "failed edits" not in capsys.readouterr().err
    with pytest.raises(ValueError, match="changes nothing with spy_view=masked"):
        load_checked_pairs(GameConfig(images=[str(tmp_path)], failed_edits=0.5, spy_view="masked"), main_process=True)

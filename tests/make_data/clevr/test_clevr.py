"""Pairs of the CLEVR maker: every rule checked from their JSON, read back by every reader, the same every time."""

import argparse
import json
import pickle
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.make_data.clevr.clevr_rules import broken_rules, wrong_counts
from tests.make_data.clevr.scene_from_json import scene_from_json
from tiny_vlm.scripted import NamingPlayer, OraclePlayer, spy_objects
from vision_zero.data.pairs import load_pairs, open_pair
from vision_zero.evaluate.clues.grounding import (
    SaidClue,
    SceneIndex,
    civilian_objects,
    grounding_figures,
    grounding_of_game,
    is_described,
)
from vision_zero.game.spy_game import deal_games
from vision_zero.make_data.clevr.maker import ClevrMaker, add_arguments, from_arguments
from vision_zero.make_data.clevr.render_blender import BLENDER_PYTHON, BlenderOptions
from vision_zero.make_data.clevr.render_numpy import render
from vision_zero.make_data.maker import EditedPair, MakerError, Rejected
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import TokenLimits
from vision_zero.types import GameRules, ImagePair, Role


def made(maker: ClevrMaker, numbers: range) -> list[EditedPair]:
    """The first attempt at each pair that is not rejected."""
    pairs = []
    with maker.open() as make:
        for number in numbers:
            for attempt in range(maker.max_attempts):
                try:
                    pairs.append(make(random.Random(f"{number}/{attempt}"), number))
                    break
                except Rejected:
                    pass
    assert len(pairs) == len(numbers)
    return pairs


def options(argv: str = "", size: tuple[int, int] | None = None) -> ClevrMaker:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return from_arguments(argparse.Namespace(size=size, **vars(parser.parse_args(argv.split()))))


@pytest.fixture(scope="module")
def pairs() -> list[EditedPair]:
    return made(ClevrMaker(), range(20))


def test_every_rule_holds(pairs: list[EditedPair]) -> None:
    for pair in pairs:
        assert broken_rules(json.loads(json.dumps(pair.documents["scenes/comparison"]))) == []
    assert {len(pair.meta["original_scene"]["objects"]) for pair in pairs} == {4, 5, 6}


def test_pixel_counts_are_right_in_both_images(pairs: list[EditedPair]) -> None:
    for pair in pairs[:2]:
        for part in ("original_scene", "modified_scene"):
            assert wrong_counts(pair.meta[part]) == []


def test_the_checker_finds_what_is_wrong(pairs: list[EditedPair]) -> None:
    """A rule that cannot fail would check nothing."""

    def broken(path: str, value: object) -> str:
        pair = json.loads(json.dumps(pairs[0].meta))
        *parents, last = path.split("/")
        inner = pair
        for key in parents:
            inner = inner[int(key) if key.isdecimal() else key]
        inner[int(last) if last.isdecimal() else last] = value
        return "; ".join(broken_rules(pair))

    there = pairs[0].meta["original_scene"]["objects"][1]["3d_coords"]
    for part in ("original_scene", "modified_scene"):
        assert "apart" in broken(f"{part}/objects/0/3d_coords", [there[0] + 0.5, there[1], 0.7])
        assert "hardly apart" in broken(f"{part}/objects/0/3d_coords", there)
        assert "pixel" in broken(f"{part}/objects/0/pixel_coords", [0, 0, 1.0])
        assert "left/right" in broken(f"{part}/relationships/left/0", [])
        assert "direction" in broken(f"{part}/directions/left", [1, 0, 0])
        assert "visible" in broken(f"{part}/visible_pixels/0", 199)
        assert "teapot" in broken(f"{part}/objects/0/shape", "teapot")
        assert "differ" in broken(f"{part}/lamps/key", [0, 0, 5])
    assert "objects changed" in broken("modification/replaced_objects", []) or "log" in broken(
        "modification/replaced_objects", []
    )
    changed = pairs[0].meta["modification"]["replaced_objects"][0]
    undone = broken(f"modified_scene/objects/{changed['index']}", changed["original"])
    assert "1 objects changed" in undone
    half = {**changed["replacement"], "color": changed["original"]["color"]}
    assert "changed in ['shape']" in broken(f"modified_scene/objects/{changed['index']}", half)


def test_images_show_the_scenes_of_the_json(pairs: list[EditedPair]) -> None:
    for pair in pairs[:3]:
        for image, part in ((pair.original, "original_scene"), (pair.edited, "modified_scene")):
            assert image.tobytes() == render(scene_from_json(pair.meta[part]), (320, 240)).tobytes()
        difference = np.abs(np.asarray(pair.original).astype(int) - np.asarray(pair.edited))
        assert 0.003 < (difference.max(axis=2) > 25).mean() < 0.3


def test_the_generator_alone_decides_and_a_pickled_maker_makes_the_same(pairs: list[EditedPair]) -> None:
    again = made(pickle.loads(pickle.dumps(ClevrMaker())), range(3))
    for one, other in zip(again, pairs, strict=False):
        assert one.documents == other.documents
        assert one.original.tobytes() == other.original.tobytes()
        assert one.edited.tobytes() == other.edited.tobytes()


def written(folder: Path, pairs: list[EditedPair]) -> None:
    """In the official sets' layout."""
    (folder / "images").mkdir()
    (folder / "scenes").mkdir()
    for number, pair in enumerate(pairs):
        pair.original.save(folder / "images" / f"clevr_{number:06d}_original.png")
        pair.edited.save(folder / "images" / f"clevr_{number:06d}_modified.png")
        document = json.dumps(pair.documents["scenes/comparison"])
        (folder / "scenes" / f"clevr_{number:06d}_comparison.json").write_text(document)


def test_what_is_written_is_read_back_and_clues_are_judged(tmp_path: Path, pairs: list[EditedPair]) -> None:
    written(tmp_path, pairs[:6])
    read = load_pairs(tmp_path / "images", scenes=tmp_path / "scenes")
    assert [pair.id for pair in read] == [f"clevr_{number:06d}" for number in range(6)]
    index = SceneIndex(read)
    for pair, one in zip(read, pairs, strict=False):
        assert pair.domain == "scenes"
        assert is_described(pair)
        assert open_pair(pair)[1].tobytes() == one.edited.tobytes()
        for part, name in (("original_scene", "original"), ("modified_scene", "modified")):
            assert pair.meta[part]["image_filename"] == f"{pair.id}_{name}.png"
        seen, spied = civilian_objects(pair), spy_objects(pair)
        assert sum(a != b for a, b in zip(seen, spied, strict=True)) == 2
        assert spied == [f"{one['color']} {one['shape']}" for one in pair.meta["modified_scene"]["objects"]]
        grounding = index.judge(pair.id, 2, [SaidClue(1, f"a {seen[0]}"), SaidClue(2, "a pink cube")])
        assert grounding[Role.CIVILIAN].true == 1
        assert grounding[Role.SPY].no_claim == 1


@dataclass(frozen=True)
class InMemory:
    """An image source."""

    image: Image.Image
    name: str = "in memory"

    def open(self) -> Image.Image:
        return self.image


def test_honest_civilians_say_what_is_true_of_these_pairs_and_the_spy_sees_the_other_scene(
    pairs: list[EditedPair],
) -> None:
    described = [
        ImagePair(f"p{k}", InMemory(pair.original), InMemory(pair.edited), "scenes", pair.meta)
        for k, pair in enumerate(pairs)
    ]
    oracle = OraclePlayer()
    limits: Any = {"clue": TokenLimits(0, 8), "decision": TokenLimits(0, 8)}
    rules = GameRules(n_civilians=3, n_rounds=1, n_votes=1)
    games = play(deal_games(range(20), 0, described, rules), Seating(oracle, NamingPlayer(), oracle), limits).games
    figures = grounding_figures([grounding_of_game(game, SceneIndex(described)) for game in games])
    assert {game.spy_view for game in games} == {"edited"}
    assert figures["civilian/true"].value == 1
    assert 0.3 < figures["spy/true"].value < 1  # of 4 to 6 objects, two are others


def test_options_reach_the_pairs() -> None:
    maker = options(
        "--objects 3 3 --edited 1 --attributes size material --min_pixels 100 --camera_jitter 0 "
        "--lamp_jitter 0 --gap 0.1 --margin 0.3 --edit_share 0.01 0.2",
        size=(160, 120),
    )
    assert maker.least_pixels == 25
    for pair in made(maker, range(3)):
        assert pair.original.size == (160, 120)
        wrong = broken_rules(
            dict(pair.meta),
            size=(160, 120),
            n_objects=(3, 3),
            n_edited=1,
            changes=frozenset({"size", "material"}),
            min_pixels=25,
            gap=0.1,
            margin=0.3,
        )
        assert wrong == []
        assert pair.meta["original_scene"]["camera"] == [7.4811, -6.5076, 5.3437]


def test_the_size_of_the_edit_is_kept() -> None:
    large = made(ClevrMaker(edit_share=(0.1, 1.0), renderer="numpy"), range(2))
    for pair in large:
        changed = [one["index"] for one in pair.meta["modification"]["replaced_objects"]]
        shown = sum(
            max(pair.meta[part]["visible_pixels"][k] for part in ("original_scene", "modified_scene")) for k in changed
        )
        assert shown / (320 * 240) > 0.05


def test_rejects_are_of_few_kinds() -> None:
    reasons = set()
    with ClevrMaker(size=(80, 60), edit_share=(0.02, 0.1)).open() as make:
        for attempt in range(150):
            try:
                make(random.Random(attempt), 0)
            except Rejected as rejected:
                reasons.add(str(rejected))
    assert {
        "an object is hidden in the original scene",
        "no room for an edited object",
        "the edit is too small",
    } <= reasons
    assert len(reasons) <= 7


def test_defaults_are_the_papers() -> None:
    assert options() == ClevrMaker()
    assert (ClevrMaker().size, ClevrMaker().n_edited, ClevrMaker().attributes) == ((320, 240), 2, ("colour", "shape"))
    assert ClevrMaker().blender == BlenderOptions(BLENDER_PYTHON)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--edited 5", "--edited 5"),
        ("--edited 0", "--edited 0"),
        ("--objects 6 4", "6 to 4"),
        ("--attributes colour colour", "each once"),
        ("--min_pixels 0", "--min_pixels 0"),
        ("--edit_share 0.5 0.2", "--edit_share"),
        ("--lamp_jitter 3", "too much jitter"),
        ("--samples 0", "samples must be"),
    ],
)
def test_what_does_not_fit_is_refused(argv: str, message: str) -> None:
    with pytest.raises(MakerError, match=message):
        options(argv)


@pytest.mark.skipif(not BLENDER_PYTHON.is_file(), reason="Blender is not installed: bash setup.sh --blender")
def test_blender_draws_the_same_scenes(pairs: list[EditedPair]) -> None:
    maker = replace(ClevrMaker(), renderer="blender", blender=BlenderOptions(samples=2, threads=1))
    (pair,) = made(maker, range(1))
    assert pair.documents == pairs[0].documents
    assert pair.original.tobytes() != pairs[0].original.tobytes()
    difference = np.abs(np.asarray(pair.original).astype(int) - np.asarray(pairs[0].original))
    assert difference.mean() < 25

"""The tiny model is a base model like any other: its files, plain transformers, and it speaks the game."""

import random
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from tiny_vlm import measuring
from tiny_vlm.files import known_words, save_base
from tiny_vlm.games import TOKEN_LIMITS, game_examples
from tiny_vlm.lessons import (
    LessonExample,
    false_clues_lesson,
    judging_lesson,
    lookups_lesson,
    naming_lesson,
    shapes_lesson,
    voting_lesson,
)
from tiny_vlm.measuring import answered, questions_right, revote, share_right
from tiny_vlm.questions import QUESTIONS, lookup_question
from tiny_vlm.scripted import TELL_WORDS
from tiny_vlm.training import Encoder
from tiny_vlm.wiring import new_model
from vision_zero.data.drawn_scenes import GRID, DrawnObject, DrawnScene, draw, drawn_pairs
from vision_zero.data.pairs import load_pairs
from vision_zero.evaluate.clues.grounding import COLOURS, SHAPES
from vision_zero.game.spy_game import deal_games, votes_in_order
from vision_zero.models import load_processor
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.types import Game, GameRules, ImagePair

ROOT = Path(__file__).resolve().parents[3]
TINY_VLM, PHOTOS = ROOT / "data" / "tiny_vlm", ROOT / "data" / "photos"
FIRST_RELEASE = Path(__file__).resolve().parents[2] / "models" / "bench_model"


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.name != "README.md"}


@pytest.fixture(scope="module")
def policy() -> TransformersPolicy:
    model = AutoModelForImageTextToText.from_pretrained(TINY_VLM, dtype=torch.float32)
    return TransformersPolicy(model, load_processor(str(TINY_VLM)), Sampling())


def test_its_files_are_those_of_the_first_release() -> None:
    assert names(TINY_VLM) == names(FIRST_RELEASE)
    assert (TINY_VLM / "model.safetensors").stat().st_size <= 7_000_000
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in TINY_VLM.iterdir())


def test_its_weights_have_the_hubs_names() -> None:
    ours, hub = (safe_open(folder / "model.safetensors", "pt") for folder in (TINY_VLM, FIRST_RELEASE))
    assert {re.sub(r"^model\.layers\.[23]\.", "model.layers.1.", name) for name in ours.keys()} == set(hub.keys())  # noqa: SIM118


def test_plain_transformers_loads_it_and_generates() -> None:
    model, loading = AutoModelForImageTextToText.from_pretrained(TINY_VLM, output_loading_info=True)
    assert not any(loading.values())
    processor = AutoProcessor.from_pretrained(TINY_VLM)
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what shape is red?"}]}
    text = processor.apply_chat_template([message], add_generation_prompt=True)
    image = drawn_pairs([0])[0].image.open()
    inputs = processor(text=[text], images=[image], return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_id).sum() == 16
    output = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    completion = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert completion.startswith("\\boxed{red ")


def test_the_words_of_the_game_are_single_tokens() -> None:
    tokenizer = AutoProcessor.from_pretrained(TINY_VLM).tokenizer
    words = {*COLOURS, *SHAPES, *TELL_WORDS, "who", "said", "unsure", "vote", "spy", "players"}
    assert words <= set(known_words())
    pieces = {word: len(tokenizer.tokenize(word)) + len(tokenizer.tokenize(f" {word}")) for word in words}
    assert [word for word, count in pieces.items() if count != 2] == []
    assert len(tokenizer) <= 700
    text = "see red \\boxed{red cube}\n1: Grün, ½ – any byte 😀"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_what_it_says_on_drawings_can_be_read(policy: TransformersPolicy) -> None:
    """Over small, usual and large tables together: three players alone are at 0.90 (it names absent seats)."""
    games = [
        game
        for n_civilians, n_rounds in ((2, 1), (4, 2), (8, 1))
        for game in finished(policy, drawn_pairs(range(12)), GameRules(n_civilians=n_civilians, n_rounds=n_rounds))
    ]
    assert_parsed(games)


def test_what_it_says_on_photographs_can_be_read(policy: TransformersPolicy) -> None:
    assert_parsed(finished(policy, load_pairs(PHOTOS)[:8], GameRules()))


def finished(policy: TransformersPolicy, pairs: Sequence[ImagePair], rules: GameRules) -> list[Game]:
    games = deal_games(range(len(pairs)), 0, pairs, rules)
    return play(games, Seating.of(policy), TOKEN_LIMITS, template="compact").games


def assert_parsed(games: Sequence[Game]) -> None:
    clues = [clue.parsed for game in games for clue in game.clues]
    votes = [vote != 0 for game in games for vote in votes_in_order(game)]
    assert sum(clues) >= 0.95 * len(clues)
    assert sum(votes) >= 0.95 * len(votes)


def test_it_finds_who_said_a_word(policy: TransformersPolicy) -> None:
    rng = random.Random(0)
    examples = [lookup_question(rng, 5, 2) for _ in range(60)]
    game = deal_games([0], 0, drawn_pairs([0]), GameRules())[0]
    right = answered(policy, game, examples, "test of looking up")
    assert sum(right) >= 0.9 * len(right)


# ------------------------------------------------------------------------------------------------- how it was made


def test_only_answers_of_a_lesson_are_learnt_and_whole_completions_of_a_game(tmp_path: Path) -> None:
    save_base(tmp_path)
    encoder = Encoder(tmp_path)
    rng = random.Random(0)
    examples = [shapes_lesson(rng, 3), lookups_lesson(rng, 4, 2), game_examples(rng)[0]]
    inputs, targets_BT = encoder.batch(examples)
    learnt = [encoder.tokenizer.decode(targets[targets != -100]) for targets in targets_BT]
    assert len(learnt[0].split()) == 5
    assert set(learnt[0].split()) <= {*SHAPES, "none"}
    assert learnt[1].isdigit()
    assert learnt[2] == examples[2].completion + "<|im_end|>"
    shifted = inputs["input_ids"].roll(-1, dims=1)
    assert (shifted[targets_BT != -100] == targets_BT[targets_BT != -100]).all()


def test_the_answers_of_lookup_questions_are_true() -> None:
    rng = random.Random(1)
    for _ in range(50):
        example = lookup_question(rng, rng.randint(3, 9), rng.choice((1, 2)))
        *lines, question = example.prompt.splitlines()
        word = question.removeprefix("who said ").removesuffix("?")
        seats = {line.split(":")[0] for line in lines if word in line.split(": ")[-1].split()}
        assert [example.completion] == [f"said {word} \\boxed{{{seat}}}" for seat in seats]


def test_the_wiring_finds_the_seat_before_any_training(tmp_path: Path) -> None:
    """The right seat's logit is above the other seats' on average, which it is not in a random model."""
    save_base(tmp_path)
    encoder = Encoder(tmp_path)
    rng = random.Random(0)
    inputs, targets_BT = encoder.batch([lookups_lesson(rng, 5, 1) for _ in range(16)])
    with torch.no_grad():
        logits_NV = new_model(tmp_path, 0)(**inputs).logits[targets_BT != -100]
    seats = torch.tensor([encoder.tokenizer.convert_tokens_to_ids(str(seat)) for seat in range(1, 6)])
    right_N = logits_NV.gather(1, targets_BT[targets_BT != -100][:, None])[:, 0]
    assert (right_N - logits_NV[:, seats].mean(1)).mean() > 0.15


def tile(image: Image.Image, cell: int) -> bytes:
    row, column = divmod(cell, GRID)
    return image.crop((column * 28, row * 28, column * 28 + 28, row * 28 + 28)).tobytes()


@cache
def tiles_of(cell: int) -> dict[str, bytes]:
    """The tile of each object, drawn there alone."""
    return {
        f"{colour} {shape}": tile(draw(DrawnScene((DrawnObject(colour, shape, cell),))), cell)
        for colour in COLOURS
        for shape in SHAPES
    }


def objects_in(image: Image.Image) -> set[str]:
    """Objects of a drawing, found by comparing each cell to the tile of each object."""
    return {
        name
        for cell in range(GRID * GRID)
        for shown in [tile(image, cell)]
        for name, alone in tiles_of(cell).items()
        if alone == shown
    }


def test_what_the_lessons_say_is_true_of_their_pictures() -> None:
    rng = random.Random(2)
    for _ in range(5):
        example = shapes_lesson(rng, 4)
        shown = objects_in(example.image)
        said = set(re.findall(r"\{(\w+ \w+)\}", example.completion))
        assert {claim for claim in said if not claim.endswith("none")} == shown
        example = naming_lesson(rng, 5)
        assert set(re.findall(r"\{(\w+ \w+)\}", example.completion)) == objects_in(example.image)
        example = judging_lesson(rng, 4)
        shown = objects_in(example.image)
        judged = [line.split(": ")[1].rsplit(" ", 1) for line in example.completion.splitlines()]
        assert [answer == "yes" for _, answer in judged] == [claim in shown for claim, _ in judged]
        assert {answer for _, answer in judged} <= {"yes", "no"}


@pytest.mark.parametrize("lesson", [false_clues_lesson, voting_lesson])
def test_who_is_suspected_in_a_lesson_said_what_is_not_there(
    lesson: Callable[[random.Random, int, int], LessonExample],
) -> None:
    rng = random.Random(3)
    for _ in range(8):
        example = lesson(rng, 4, 2)
        shown = objects_in(example.image)
        clues = [line.split(": ") for line in example.prompt.splitlines() if re.match(r"\d: ", line)]
        assert list(example.truths) == [claim in shown for _, claim in clues]
        false = [f"said {claim} \\boxed{{{seat}}}" for seat, claim in clues if claim not in shown]
        if lesson is voting_lesson:
            assert example.completion in false
        else:
            assert example.completion == (" ".join(false) or "unsure \\boxed{N/A}")


def test_claims_are_judged_at_their_last_word(tmp_path: Path) -> None:
    save_base(tmp_path)
    encoder = Encoder(tmp_path)
    examples = [voting_lesson(random.Random(4), 3, 2), shapes_lesson(random.Random(4), 3)]
    ids_BT = encoder.batch(examples)[0]["input_ids"]
    truths_BT = encoder.truths(ids_BT, examples)
    judged = (truths_BT[0] != -100).nonzero().flatten()
    words = [encoder.tokenizer.decode(ids_BT[0, place - 1 : place + 1]).strip() for place in judged]
    assert words == [line.split(": ")[1] for line in examples[0].prompt.splitlines() if re.match(r"\d: ", line)]
    answers = [encoder.tokenizer.decode(truths_BT[0, place]).strip() for place in judged]
    assert answers == ["yes" if true else "no" for true in examples[0].truths]
    assert (truths_BT[1] == -100).all()


def test_the_answers_of_questions_are_true_of_their_pictures() -> None:
    rng = random.Random(5)
    for name, (question, _) in QUESTIONS.items():
        for _ in range(5):
            example = question(rng)
            if name == "who said a word":
                continue
            shown = objects_in(example.image)
            colours, shapes = {one.split()[0]: one.split()[1] for one in shown}, [one.split()[1] for one in shown]
            box = example.completion.removeprefix("\\boxed{").removesuffix("}")
            words = example.prompt.rstrip("?").split()
            if name == "what shape has a colour":
                assert box == f"{words[-1]} {colours.get(words[-1], 'none')}"
            elif name == "name an object":
                assert box in shown
                assert example.boxes == shown
            elif name == "is a claim true":
                assert (box == "yes") == (f"{words[0]} {words[1]}" in shown)
            elif name == "how many of a shape":
                assert int(box) == shapes.count(words[-1])
            else:
                assert shapes.count(words[-1]) == 1
                assert f"{box} {words[-1]}" in shown


# ------------------------------------------------------------------------------------------------------ what it can do


def test_it_sees_judges_and_looks_up(policy: TransformersPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """The likeliest answers. What it was hardly taught is not asked here; the figures are in its README.md."""
    asked = {name: QUESTIONS[name] for name in ("who said a word", "name an object")}
    monkeypatch.setattr(measuring, "QUESTIONS", asked)
    likeliest = TransformersPolicy(policy.model, policy.processor, Sampling(1.0, top_k=1))
    right = questions_right(likeliest, deal_games([0], 0, drawn_pairs([0]), GameRules())[0], n_questions=100)
    shares = {name: sum(answers) / len(answers) for name, answers in right.items()}
    assert shares["what shape has a colour, 6 objects"] >= 0.95
    assert shares["name an object"] >= 0.9
    assert shares["who said a word"] >= 0.9


def test_its_votes_find_the_spy_by_looking(policy: TransformersPolicy) -> None:
    """On its own games at the temperature of training (chance: 0.2), and near chance on other games' pictures."""
    games = finished(policy, drawn_pairs(range(1 << 41, (1 << 41) + 60)), GameRules())
    assert sum(map(share_right, games)) / len(games) >= 0.4
    assert sum(map(share_right, revote(policy, games))) / len(games) <= 0.27

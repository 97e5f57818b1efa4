"""The tiny model is a base model like any other: its files, plain transformers, and it speaks the game."""

import random
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForImageTextToText, AutoProcessor

from vision_zero.data.drawings import drawn_pairs
from vision_zero.data.pairs import load_pairs
from vision_zero.game.spy_game import deal_games, votes_in_order
from vision_zero.models import load_processor
from vision_zero.rollout.engine import Table, play
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.scripted import COLOURS, SHAPES, TELL_WORDS
from vision_zero.rollout.transformers import TransformersPolicy
from vision_zero.tiny.files import known_words, save_base
from vision_zero.tiny.lessons import LIMITS, game_rows, lookup_question, lookups_lesson, shapes_lesson
from vision_zero.tiny.measuring import Share, answered
from vision_zero.tiny.training import Encoder
from vision_zero.tiny.wiring import new_model
from vision_zero.types import Game, GameRules, ImagePair

ROOT = Path(__file__).parent.parent
TINY_VLM, PHOTOS = ROOT / "data" / "tiny_vlm", ROOT / "data" / "photos"
FIRST_RELEASE = Path(__file__).parent / "models" / "bench_model"


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
    reply = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert reply.startswith("\\boxed{red ")


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
    assert_readable(games)


def test_what_it_says_on_photographs_can_be_read(policy: TransformersPolicy) -> None:
    assert_readable(finished(policy, load_pairs(PHOTOS)[:8], GameRules()))


def finished(policy: TransformersPolicy, pairs: Sequence[ImagePair], rules: GameRules) -> list[Game]:
    games = deal_games(range(len(pairs)), 0, pairs, rules)
    return play(games, Table.of(policy), LIMITS, template="compact").games


def assert_readable(games: Sequence[Game]) -> None:
    clues = [clue.readable for game in games for clue in game.clues]
    votes = [vote != 0 for game in games for vote in votes_in_order(game)]
    assert sum(clues) >= 0.95 * len(clues)
    assert sum(votes) >= 0.95 * len(votes)


def test_it_finds_who_said_a_word(policy: TransformersPolicy) -> None:
    rng = random.Random(0)
    rows = [lookup_question(rng, 5, 2) for _ in range(60)]
    game = deal_games([0], 0, drawn_pairs([0]), GameRules())[0]
    right = answered(policy, game, rows, "test of looking up")
    assert sum(right) >= 0.9 * len(right)


# ------------------------------------------------------------------------------------------------- how it was made


def test_only_answers_of_a_lesson_are_learnt_and_whole_replies_of_a_game(tmp_path: Path) -> None:
    save_base(tmp_path)
    encoder = Encoder(tmp_path)
    rng = random.Random(0)
    rows = [shapes_lesson(rng, 3), lookups_lesson(rng, 4, 2), game_rows(rng)[0]]
    inputs, targets_BT = encoder.batch(rows)
    learnt = [encoder.tokenizer.decode(targets[targets != -100]) for targets in targets_BT]
    assert len(learnt[0].split()) == 5
    assert set(learnt[0].split()) <= {*SHAPES, "none"}
    assert learnt[1].isdigit()
    assert learnt[2] == rows[2].reply + "<|im_end|>"
    shifted = inputs["input_ids"].roll(-1, dims=1)
    assert (shifted[targets_BT != -100] == targets_BT[targets_BT != -100]).all()


def test_the_answers_of_lookup_questions_are_true() -> None:
    rng = random.Random(1)
    for _ in range(50):
        row = lookup_question(rng, rng.randint(3, 9), rng.choice((1, 2)))
        *lines, question = row.prompt.splitlines()
        word = question.removeprefix("who said ").removesuffix("?")
        seats = {line.split(":")[0] for line in lines if word in line.split(": ")[-1].split()}
        assert [row.reply] == [f"said {word} \\boxed{{{seat}}}" for seat in seats]


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


def test_a_share_knows_its_interval() -> None:
    share = Share.of([0.0, 1.0] * 50)
    assert share.value == 0.5
    assert 0.38 < share.low < 0.42
    assert 0.58 < share.high < 0.62

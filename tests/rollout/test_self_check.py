"""The self-check: families whose player is not the model are refused, right ones pass, and a run does not notice it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.process_helpers import TINY_VLM, flags
from tests.tiny_families import save_gemma3, save_qwen3_5
from tests.tiny_games import noise_pairs, tiny_games
from tests.trainer.test_families import MORE, saved_family
from tests.trainer_helpers import BENCH_MODEL, make_trainer
from vision_zero.config.game import GameConfig
from vision_zero.evaluate.benchmarks.server.model import ChatModel, ChatRequest
from vision_zero.models import load_model, load_processor
from vision_zero.rollout import image_store, self_check
from vision_zero.rollout.load_policy import Loading, load_player
from vision_zero.rollout.play import play
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.self_check import SelfCheckError, check_files, check_player, first_requests, plain_inputs
from vision_zero.rollout.transformers_policy import TransformersPolicy, prompt_of
from vision_zero.rollout.vllm.requests import unexpanded_prompt_ids
from vision_zero.train import load_checked_pairs, main
from vision_zero.trainer.callbacks import SelfCheck

LOADING = Loading(Sampling(0.8, 50), use_cpu=True)


@pytest.fixture(scope="module")
def gemma3(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_gemma3(tmp_path_factory.mktemp("family") / "model"))


@pytest.fixture
def wrong(gemma3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A family whose player does not say which tokens are of an image, which see each other."""
    own = image_store._Numbering.process
    monkeypatch.setattr(
        image_store._Numbering,
        "process",
        lambda *args: replace(own(*args), per_token={}),  # type: ignore[misc]
    )
    return gemma3


def game() -> Any:
    return tiny_games(1, n_rounds=2)[0]


# ------------------------------------------------------------------------------------------------------------- families


MEASURED = r"log-probs as sampled are 0\.\d+ per token from its own forward's"


def test_a_wrong_family_is_refused_before_it_trains(wrong: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(SystemExit) as stopped:
        main(flags(output_dir=run, model_name_or_path=wrong, max_pixels=None))
    message = str(stopped.value)
    assert re.match(f"error: model {wrong} would not be played as it is trained and judged: {MEASURED}", message)
    assert "Give a model of another family" in message
    assert "\n" not in message
    assert not {"config.yaml", "metrics.jsonl", "games"} & {path.name for path in run.iterdir()}, "the folder is free"


def test_a_wrong_family_is_not_evaluated(wrong: str) -> None:
    with pytest.raises(ValueError, match=MEASURED):
        load_player(wrong, LOADING, game(), "compact")


def test_a_served_model_generates_with_all_fields(gemma3: str) -> None:
    served = ChatModel.load(gemma3, use_cpu=True, system_prompt="Think first.")
    assert served.check("it").startswith("self-check: prompts of ")


def test_layers_with_a_state_are_refused(tmp_path: Path) -> None:
    model, words = save_qwen3_5(tmp_path / "model"), "Qwen3_5ForConditionalGeneration has linear_attention layers"
    with pytest.raises(SystemExit, match=words):
        main(flags(output_dir=tmp_path / "run", model_name_or_path=model, max_pixels=None))
    with pytest.raises(ValueError, match=words):
        load_player(str(model), LOADING, game(), "compact")


@pytest.mark.parametrize("name", ["qwen2.5-vl", "internvl3 in tiles", *MORE])
def test_a_right_family_passes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = saved_family(name, tmp_path)
    on = tiny_games(1, n_rounds=2, pairs=noise_pairs(1, size=family.image_size))[0]
    player = load_player(str(tmp_path), LOADING, on, "compact")
    lines = [line for line in capsys.readouterr().err.splitlines() if "self-check" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{tmp_path}: self-check: prompts of ")
    assert player.policy.new_tokens == player.policy.images.preprocessed == 0
    assert ChatModel.load(str(tmp_path), use_cpu=True).check("it").startswith("self-check: prompts of ")


# --------------------------------------------------------------------------------------------------------- what it sees


class Changed:
    """A right player but for a change of what it says."""

    def __init__(self, policy: TransformersPolicy, change: Callable[[Any], Any]) -> None:
        self.policy, self.change = policy, change

    def answer(self, requests: Any) -> Any:
        return [self.change(said) for said in self.policy.answer(requests)]


CHANGES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "log-probs": (
        lambda said: replace(said, logprobs=tuple(lp + 2e-3 for lp in said.logprobs)),
        r"log-probs as sampled are 0\.002 per token",
    ),
    "one NaN": (lambda said: replace(said, logprobs=(*said.logprobs[1:], float("nan"))), "are nan per token"),
    "a token of the prompt": (lambda said: replace(said, prompt_ids=(9, *said.prompt_ids[1:])), "reads a prompt as"),
    "two BOS": (lambda said: replace(said, prompt_ids=(9, *said.prompt_ids)), "reads a prompt as"),
    "an error": (lambda said: said.nonsense, "nonsense"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_player_does_otherwise_is_seen(name: str) -> None:
    change, words = CHANGES[name]
    processor, model = load_processor(str(BENCH_MODEL)), load_model(BENCH_MODEL, dtype="float32")
    player = Changed(TransformersPolicy(model, processor), change)
    with pytest.raises(SelfCheckError, match=words):
        check_player(
            "it",
            lambda: nullcontext(player),
            lambda: nullcontext(model),
            processor,
            first_requests(game(), "compact"),
            0.8,
            1e-3,
        )


def test_a_clue_and_a_vote_on_the_civilians_image_are_asked() -> None:
    clue, vote = first_requests(game(), "compact")
    assert (clue.turn.stage, vote.turn.stage) == ("clue", "decision")
    assert clue.image is vote.image
    assert vote.prompt.text.count("a thing, number") == 6
    assert clue.token_limits.minimum == clue.token_limits.maximum == self_check.TOKENS


def test_files_that_do_not_belong_together_are_refused() -> None:
    processor, model = load_processor(str(BENCH_MODEL)), load_model(BENCH_MODEL, device_map="meta")
    check_files(processor, model, "it")
    rows = model.get_input_embeddings().num_embeddings
    processor.tokenizer.add_tokens([f"<more {k}>" for k in range(rows - len(processor.tokenizer) + 1)])
    with pytest.raises(SelfCheckError, match=f"its tokenizer has ids up to {rows}, its weights {rows} embeddings"):
        check_files(processor, model, "it")


# ------------------------------------------------------------------------------------------------ nothing of it is left


def random_states() -> tuple[Any, ...]:
    numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
    return torch.get_rng_state().tolist(), random.getstate(), numpy


@pytest.mark.parametrize("options", [{}, {"freeze_vision": True}], ids=["", "frozen tower"])
def test_a_run_with_it_is_a_run_without(
    options: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs, states, counts = [], [], []
    for checked in (False, True):
        trainer = make_trainer(tmp_path, iterations=2, learning_rate=1e-3, **options)
        generators = random_states()
        if checked:
            trainer.add_callback(check := SelfCheck(trainer))
            check.on_train_begin()
            assert random_states() == generators
            assert trainer.images.preprocessed == 0
        trainer.train()
        timed = ("seconds", "step_time", "train_")
        logs.append([{k: v for k, v in line.items() if not k.startswith(timed)} for line in trainer.state.log_history])
        states.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
        counts.append((trainer.images.preprocessed, trainer.frozen and trainer.frozen.encoded))
    assert logs[0] == logs[1]
    assert counts[0] == counts[1]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert capsys.readouterr().err.count("self-check: ") == 2  # by hand, and as training begins


# ---------------------------------------------------------------------------------------------------------- double BOS


@pytest.mark.parametrize(("template", "tokenizer"), [("<bos>", True), ("<bos>", False), ("", True), ("", False)])
def test_a_prompt_has_the_bos_of_apply_chat_template(template: str, tokenizer: bool, tmp_path: Path) -> None:
    folder = str(save_gemma3(tmp_path / "model", template_bos=template, tokenizer_bos=tokenizer))
    processor, model = load_processor(folder), load_model(folder, dtype="float32")
    (request, _) = first_requests(game(), "compact")
    expected = plain_inputs(load_processor(folder), request.image, request.prompt.text)["input_ids"][0].tolist()
    bos = processor.tokenizer.bos_token_id
    assert expected.count(bos) == min(1, len(template) + tokenizer)
    assert prompt_of(processor, request).ids == expected
    unexpanded = unexpanded_prompt_ids(processor, request)
    assert unexpanded.count(bos) == expected.count(bos)
    content = [{"type": "image"}, {"type": "text", "text": request.prompt.text}]
    chat = ChatRequest(({"role": "user", "content": content},), (request.image.copy(),), 1)
    assert ChatModel(model, processor).generate([chat])[0]["input_ids"][0].tolist() == expected


def test_trl_reads_prompts_with_one_bos_too(tmp_path: Path) -> None:
    """The fields over the prompt that it makes by itself are as long as the prompt that was played."""
    folder = save_gemma3(tmp_path / "model", tokenizer_bos=True)
    trainer = make_trainer(tmp_path / "run", model=folder, processor=load_processor(str(folder)), schedule="decision")
    batches: list[Any] = []
    split = trainer.packed.split_micro_batches
    trainer.packed.split_micro_batches = lambda batch: batches.append(batch) or split(batch)  # type: ignore
    trainer.train()
    (batch,) = batches
    width = batch["prompt_ids"].shape[1] + batch["completion_ids"].shape[1]
    assert batch["token_type_ids"].shape[1] == width
    marked = batch["token_type_ids"][:, : batch["prompt_ids"].shape[1]].bool()
    assert torch.equal(marked, batch["prompt_ids"] == trainer.model.config.image_token_id)


# --------------------------------------------------------------------------------------------------------- large images


def test_tokens_of_images_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for number, size in enumerate([(56, 56), (56, 84), (1400, 1400)]):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
    for bound, most, warned in ((None, 2500, True), (56 * 56, 4, False)):
        processor = load_processor(str(BENCH_MODEL), max_pixels=bound)
        if bound is None:
            processor.image_processor.size["longest_edge"] = 10_000_000  # as of the Hub's models
        load_checked_pairs(GameConfig(images=[str(tmp_path)], max_pixels=bound), True, processor)
        said = capsys.readouterr().err
        assert f"{most} of the largest" in said
        assert ("warning: more than 1,500 tokens" in said) is warned


def test_prompts_of_many_tokens_share_a_batch_with_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the games stay the same."""
    model, processor = load_model(TINY_VLM, dtype="float32"), load_processor(str(TINY_VLM))
    from vision_zero.rollout import transformers_policy
    from vision_zero.rollout.play import Seating
    from vision_zero.rollout.policy import TokenLimits

    limits = {"clue": TokenLimits(0, 8), "decision": TokenLimits(0, 8)}
    games, played, sizes = tiny_games(3, n_votes=4), [], []
    for tokens in (2048, 40):
        monkeypatch.setattr(transformers_policy, "PROMPT_TOKENS", tokens)
        policy = TransformersPolicy(model, processor, max_batch=8)
        batches = policy._batches
        seen: list[int] = []

        def counting(requests: Any, batches: Any = batches, seen: list[int] = seen) -> Any:
            for batch in batches(requests):
                seen.append(max(sum(len(row.requests) * len(row.prompt.ids) for row in batch), 0))
                yield batch

        policy._batches = counting  # type: ignore[method-assign]
        rollout = play(games, Seating.of(policy), limits, template="compact")
        played.append([one.completion.token_ids for end in rollout.games for one in (*end.clues, *end.votes)])
        sizes.append(seen)
    assert played[0] == played[1]
    assert max(sizes[0]) > 8 * 40 >= max(sizes[1])

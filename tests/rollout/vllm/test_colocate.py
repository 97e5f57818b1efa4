"""The real engine against transformers: the same tokens, the same log-probabilities, nothing computed twice.

What the engine did is found out by `tests/vllm_programs.py`, an engine in a process for each of its programs.
"""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.prefix_reuse import best_possible_reuse
from tests.tiny_games import END_TOKENS, IMAGE_TOKEN, VIDEO_TOKEN
from tests.vllm_programs import BLOCK, N_GAMES, TOKEN_LIMITS, facts

N_COMPLETIONS = N_GAMES * (5 * 2 + 8)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return facts(tmp_path_factory.mktemp("engines"), ["policy"], ["internvl"])


@pytest.fixture(scope="module")
def policy(engines: list[dict[str, Any]]) -> dict[str, Any]:
    return engines[0]


@pytest.fixture(scope="module")
def internvl(engines: list[dict[str, Any]]) -> dict[str, Any]:
    return engines[1]


@pytest.mark.parametrize("schedule", ["continuous", "lock_step"])
def test_greedy_games_are_those_of_transformers(policy: dict[str, Any], schedule: str) -> None:
    found = policy[schedule]
    assert found["completions"] == N_COMPLETIONS
    assert (found["other_prompts"], found["other_tokens"]) == (0, 0)
    assert found["gap"] < 1e-4


def test_sampled_games_do_not_depend_on_what_else_is_in_the_batch(policy: dict[str, Any]) -> None:
    """Games whose completions have 32 tokens each."""
    found = policy["sampled"]
    assert policy["sampled_length"] == [32]
    assert found["completions"] == N_COMPLETIONS
    assert (found["other_prompts"], found["other_tokens"]) == (0, 0)
    assert policy["sampled_greedily"] > N_COMPLETIONS / 2, "they are sampled, not greedy"


def test_log_probs_are_those_of_a_forward_pass_at_the_temperature(policy: dict[str, Any]) -> None:
    """Of the whole softmax, although only 40 tokens could be sampled."""
    assert policy["scales"] == [1 / policy["temperature"]]
    assert policy["sampled_gap"] < 1e-4


def test_image_and_video_placeholders_are_never_sampled(policy: dict[str, Any]) -> None:
    """All other tokens are about as likely as each other: 700 draws find more than 400 of the 853."""
    assert len(policy["hot_tokens"]) > 400
    assert not {IMAGE_TOKEN, VIDEO_TOKEN} & set(policy["hot_tokens"])


def test_completions_are_as_long_as_asked(policy: dict[str, Any]) -> None:
    least, most = TOKEN_LIMITS
    assert policy["hot_lengths"][0] > least
    assert policy["hot_lengths"][-1] == most
    # An end that is all but certain comes as soon as it may, and is part of the completion.
    assert policy["end"] in END_TOKENS
    assert policy["ended"] == [[least + 1, policy["end"]]]


def test_no_block_of_a_prompt_is_computed_twice(policy: dict[str, Any]) -> None:
    assert policy["best_reuse"] > 0.5 * (policy["reused"] + policy["prefilled"])
    assert policy["reused"] >= 0.95 * policy["best_reuse"]


def test_games_follow_the_weights(policy: dict[str, Any]) -> None:
    assert policy["changed"] > N_COMPLETIONS / 2, "the weights were changed enough to be heard"
    found = policy["synced"]
    assert (found["other_prompts"], found["other_tokens"]) == (0, 0)
    assert found["gap"] < 1e-4


def test_without_the_reset_images_are_seen_with_the_old_weights(policy: dict[str, Any]) -> None:
    """Stock TRL's behaviour, which the test above must detect."""
    assert policy["stale_encoder"]["other_tokens"] > 0


def test_expanded_placeholders_would_be_expanded_again(policy: dict[str, Any]) -> None:
    """Stock TRL's prompts, which the tests above must detect."""
    assert policy["expanded_twice"] > policy["expanded"]


@pytest.mark.parametrize("n_images", ["1", "2"])
def test_prompt_ids_are_the_processors(policy: dict[str, Any], internvl: dict[str, Any], n_images: str) -> None:
    assert policy["images"][n_images]
    assert internvl["images"][n_images]


def test_the_other_family_plays_the_same_games(internvl: dict[str, Any]) -> None:
    found = internvl["games"]
    assert (found["other_prompts"], found["other_tokens"]) == (0, 0)
    assert found["gap"] < 1e-4


def test_without_a_length_the_engine_takes_what_fits_of_the_models(internvl: dict[str, Any]) -> None:
    """vLLM refuses a longer length than the model's, and one whose cache does not fit."""
    assert internvl["longest"] == [64 * BLOCK, 128 * BLOCK]


def test_best_possible_reuse_by_hand() -> None:
    """Blocks of 2. The first prompt is new. The second shares "abcd" with it: 4 tokens. The third is the first again:
    6 tokens are whole blocks, but the last must be computed, so 4. The last has another image."""
    prompts = [("x", "abcdef"), ("x", "abcdxyz"), ("x", "abcdef"), ("y", "abcdef")]
    asked = [(image, [ord(letter) for letter in text]) for image, text in prompts]
    assert best_possible_reuse(asked, 2) == 4 + 4
    assert best_possible_reuse(asked[:1], 2) == 0
    assert best_possible_reuse(asked[:1] * 2, BLOCK) == 0


# ------------------------------------------------------------------------------------------------------ more families


MORE_FAMILIES = ["qwen2-vl", "qwen3-vl", "smolvlm2", "llava-onevision", "glm-4.1v", "mistral3"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE_FAMILIES)
def test_a_family_plays_the_same_games_after_its_weights_were_sent(name: str, tmp_path: Path) -> None:
    (found,) = facts(tmp_path, ["family", name])
    assert found["completions"] == 3 * 5
    assert (found["other_prompts"], found["other_tokens"]) == (0, 0)
    assert found["gap"] < 1e-4

"""The fast policy against plain transformers: same tokens, same log-probabilities, less computed."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, ProcessorMixin

from tests.tiny_games import (
    END_TOKENS,
    IMAGE_TOKEN,
    VIDEO_TOKEN,
    NoiseImage,
    bench_model,
    bench_processor,
    request_for,
    tiny_games,
)
from vision_zero.game.prompts import render
from vision_zero.game.spy_game import deal
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.image_store import chat_text
from vision_zero.rollout.kv_cache import common_length
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import TokenLimits, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.types import Completion, Game, GameRules, ImagePair

TOKEN_LIMITS = {"clue": TokenLimits(2, 7), "decision": TokenLimits(2, 7)}
GREEDY = Sampling(temperature=0)


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return sharpened(bench_model())


@pytest.fixture
def processor() -> ProcessorMixin:
    return bench_processor()


def sharpened(model: PreTrainedModel) -> PreTrainedModel:
    """Random weights answer almost uniformly; larger ones make what is said depend on prompt and image."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "embed_tokens" not in name:
                parameter.mul_(4)
    return model


def ragged_requests() -> list[TurnRequest]:
    """Six turns of four prompts, of different lengths, on three images of different sizes."""
    (game,) = tiny_games(1)
    images = [
        GameImage(f"image{i}", NoiseImage(f"image{i}", size).open())
        for i, size in enumerate([(56, 56), (112, 56), (84, 84)])
    ]
    asked = [
        ("a", 0),
        ("vote: the red cube and the blue sphere, " * 3, 1),
        ("who is the spy?", 2),
        ("a", 0),
        ("a", 1),
        ("a", 0),
    ]
    return [
        request_for(text, images[i], game=replace(game, index=10 + i), seed=number, token_limits=(0, 9))
        for number, (text, i) in enumerate(asked)
    ]


def ids_of(completions: Sequence[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


def assert_same_completions(left: Sequence[Completion], right: Sequence[Completion]) -> None:
    assert ids_of(left) == ids_of(right)
    for one, other in zip(left, right, strict=True):
        assert one.prompt_ids == other.prompt_ids
        assert one.text == other.text
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


def assert_same_games(left: Sequence[Game], right: Sequence[Game]) -> None:
    for one, other in zip(left, right, strict=True):
        assert_same_completions(
            [said.completion for said in (*one.clues, *one.votes)],
            [said.completion for said in (*other.clues, *other.votes)],
        )


def inputs_of(request: TurnRequest) -> dict[str, torch.Tensor]:
    """Tensors of the turn from a processor without a memo."""
    stock = bench_processor()
    image = request.image.copy()
    return stock(text=[chat_text(stock, request.prompt.text)], images=[[image]], return_tensors="pt")


def forward_logprobs(
    model: PreTrainedModel, request: TurnRequest, tokens: Sequence[int], temperature: float
) -> list[float]:
    """Log-probabilities of `tokens` after the prompt, by one forward pass over both."""
    inputs = dict(inputs_of(request))
    n_prompt = inputs["input_ids"].shape[1]
    completion = torch.tensor([tokens])
    inputs["input_ids"] = torch.cat([inputs["input_ids"], completion], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE_TOKEN).int()
    with torch.no_grad():
        logits = model(**inputs).logits[0, n_prompt - 1 : -1]
    return (logits / temperature).log_softmax(-1).gather(1, completion[0][:, None])[:, 0].tolist()


# ---------------------------------------------------------------------------------------------- against plain generate


@pytest.mark.parametrize("token_limits", [(0, 12), (5, 12)])
def test_greedy_tokens_are_those_of_plain_generate(
    model: PreTrainedModel, processor: ProcessorMixin, token_limits: tuple[int, int]
) -> None:
    requests = [replace(request, token_limits=TokenLimits(*token_limits)) for request in ragged_requests()]
    completions = TransformersPolicy(model, processor, GREEDY).answer(requests)
    for request, completion in zip(requests, completions, strict=True):
        inputs = inputs_of(request)
        assert completion.prompt_ids == tuple(inputs["input_ids"][0].tolist())
        generated = model.generate(
            **inputs,
            do_sample=False,
            min_new_tokens=token_limits[0],
            max_new_tokens=token_limits[1],
            suppress_tokens=[IMAGE_TOKEN, VIDEO_TOKEN],
        )
        assert completion.token_ids == tuple(generated[0, inputs["input_ids"].shape[1] :].tolist())
        assert completion.text == processor.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert (
        len(set(ids_of(completions))) == 4
    )  # equal prompts, equal greedy completions; other prompts, other completions


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(1.0, 0, 1.0), Sampling(0.5, 5, 0.9)], ids=str)
def test_log_probabilities_are_those_of_a_plain_forward_pass(
    model: PreTrainedModel, processor: ProcessorMixin, sampling: Sampling
) -> None:
    requests = ragged_requests()
    for request, completion in zip(
        requests, TransformersPolicy(model, processor, sampling).answer(requests), strict=True
    ):
        expected = forward_logprobs(model, request, completion.token_ids, sampling.temperature or 1.0)
        assert completion.logprobs == pytest.approx(expected, abs=1e-5)


def test_the_image_is_seen(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    (game,) = tiny_games(1)
    completions = TransformersPolicy(model, processor, GREEDY).answer(
        [request_for("what?", GameImage(name, NoiseImage(name).open()), game=game) for name in ("one", "two")]
    )
    assert completions[0].logprobs[0] != pytest.approx(completions[1].logprobs[0], abs=1e-4)


# ------------------------------------------------------------------------------------------- whatever shares the batch


@pytest.mark.parametrize("reuse_prefixes", [True, False])
@pytest.mark.parametrize("max_batch", [1, 3, 256])
def test_batch_size_and_neighbours_change_nothing(
    model: PreTrainedModel, processor: ProcessorMixin, max_batch: int, reuse_prefixes: bool
) -> None:
    requests = ragged_requests()
    expected = [TransformersPolicy(model, processor).answer([request])[0] for request in requests]
    policy = TransformersPolicy(model, processor, max_batch=max_batch, reuse_prefixes=reuse_prefixes)
    assert_same_completions(policy.answer(requests), expected)
    assert_same_completions(policy.answer(requests[::-1]), expected[::-1])  # and again, from the caches
    assert len({len(completion.token_ids) for completion in expected} | set(ids_of(expected))) > 4


def test_prompts_with_and_without_a_known_beginning_share_a_batch(
    model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    requests = ragged_requests()
    expected = TransformersPolicy(model, processor).answer(requests)
    for known in range(len(requests)):
        policy = TransformersPolicy(model, processor)
        policy.answer(requests[known : known + 1])
        assert_same_completions(policy.answer(requests), expected)


def test_a_short_new_prompt_beside_a_long_known_one(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """The columns to compute are as many as the new prompt has: they end anywhere in the known one's image."""
    (game,) = tiny_games(1)
    images = [GameImage(name, NoiseImage(name).open()) for name in ("known", "new")]
    for shorter in range(1, 13):
        policy = TransformersPolicy(model, processor)
        known = request_for(" a" * 20, images[0], game=game)
        new = request_for(" a" * (20 - shorter), images[1], game=replace(game, index=1))
        first = policy.answer([known])
        assert_same_completions(
            policy.answer([known, new]), [*first, *TransformersPolicy(model, processor).answer([new])]
        )


@pytest.mark.parametrize("voter", ["observer", "civilian"])
def test_reusing_prefixes_changes_no_game(model: PreTrainedModel, processor: ProcessorMixin, voter: str) -> None:
    games = tiny_games(3, n_rounds=2, voter=voter, n_votes=4)
    with_reuse, without = (TransformersPolicy(model, processor, reuse_prefixes=reuse) for reuse in (True, False))
    left, right = (play(games, Seating.of(p), TOKEN_LIMITS, template="compact").games for p in (with_reuse, without))
    assert_same_games(left, right)
    assert with_reuse.prefilled_tokens < without.prefilled_tokens
    assert with_reuse.prefilled_tokens + with_reuse.reused_tokens == without.prefilled_tokens + without.reused_tokens
    assert with_reuse.new_tokens == without.new_tokens


def test_a_game_is_the_same_alone_and_among_others(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    games = tiny_games(3, spy_view="blank")
    together = play(games, Seating.of(TransformersPolicy(model, processor)), TOKEN_LIMITS, template="compact").games
    for game, expected in zip(games, together, strict=True):
        policy = TransformersPolicy(model, processor, max_batch=2)
        assert_same_games(play([game], Seating.of(policy), TOKEN_LIMITS, template="compact").games, [expected])


def test_games_on_one_image_with_equal_prompts_are_sampled_apart(
    model: PreTrainedModel, processor: ProcessorMixin
) -> None:
    (game,) = tiny_games(1)
    image = GameImage("image", NoiseImage("image").open())
    requests = [request_for("say:", image, game=replace(game, index=k), seed=k) for k in range(4)]
    policy = TransformersPolicy(model, processor)
    completions = policy.answer(requests)
    assert len(set(ids_of(completions))) == 4
    n_prompt = len(completions[0].prompt_ids)
    assert (policy.prefilled_tokens, policy.reused_tokens) == (n_prompt, 3 * n_prompt)


# ---------------------------------------------------------------------------------------------------- tokens and limits


class Wants:
    """Makes a model want some tokens more than all others, on top of its own logits."""

    def __init__(self, model: PreTrainedModel, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens)
        self.handle = model.lm_head.register_forward_hook(self.add)

    def add(self, module: torch.nn.Module, args: object, logits: torch.Tensor) -> torch.Tensor:
        wanted = torch.zeros_like(logits)
        wanted[..., self.tokens] = 1000.0
        return logits + wanted


@pytest.fixture
def wants(model: PreTrainedModel) -> Iterator:
    hooks: list[Wants] = []

    def want(*tokens: int) -> None:
        hooks.append(Wants(model, tokens))

    yield want
    for hook in hooks:
        hook.handle.remove()


@pytest.mark.parametrize("sampling", [GREEDY, Sampling(), Sampling(top_k=0)], ids=str)
def test_placeholders_of_images_and_videos_are_never_sampled(
    model: PreTrainedModel, processor: ProcessorMixin, wants, sampling: Sampling
) -> None:
    requests = ragged_requests()
    expected = TransformersPolicy(model, processor, sampling).answer(requests)
    wants(IMAGE_TOKEN, VIDEO_TOKEN)
    completions = TransformersPolicy(model, processor, sampling).answer(requests)
    assert not {IMAGE_TOKEN, VIDEO_TOKEN} & {token for completion in completions for token in completion.token_ids}
    if sampling == GREEDY:
        assert ids_of(completions) == ids_of(expected)
    assert all(
        logprob < -500 for completion in completions for logprob in completion.logprobs
    )  # training sees what the model wants


@pytest.mark.parametrize("end", END_TOKENS)
def test_no_end_before_the_minimum_and_an_end_is_kept(
    model: PreTrainedModel, processor: ProcessorMixin, wants, end: int
) -> None:
    wants(end)
    policy = TransformersPolicy(model, processor)
    minimums = [0, 3, 5, 8, 9, 0]
    requests = [
        replace(request, token_limits=TokenLimits(minimum, 9))
        for request, minimum in zip(ragged_requests(), minimums, strict=True)
    ]
    for minimum, completion in zip(minimums, policy.answer(requests), strict=True):
        assert len(completion.token_ids) == len(completion.logprobs) == min(minimum + 1, 9)
        assert not set(completion.token_ids[:minimum]) & set(END_TOKENS)
        assert (completion.token_ids[-1] == end) is (minimum < 9)
        assert "<|" not in completion.text


def test_completions_stop_at_their_own_maximum(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    maximums = [1, 4, 9, 2, 7, 6]
    requests = [
        replace(request, token_limits=TokenLimits(maximum, maximum))
        for request, maximum in zip(ragged_requests(), maximums, strict=True)
    ]
    policy = TransformersPolicy(model, processor)
    assert [len(completion.token_ids) for completion in policy.answer(requests)] == maximums
    assert policy.new_tokens == sum(maximums)


# ---------------------------------------------------------------------------------------------------- what is computed


def shared_prefix_by_hand(policy: TransformersPolicy, game: Game, template: str) -> tuple[int, int]:
    """(prompt tokens to compute, prompt tokens in all) of a finished game, by comparing its prompts in order.

    A clue's prompt starts from the last prompt of the same image, as far as both begin alike.
    """
    seen: dict[str, tuple[int, ...]] = {}
    computed = total = 0
    said = [*game.clues, game.votes[0]]
    for number, one in enumerate(said):
        view = render(replace(game, clues=game.clues[:number], votes=()), one.turn, template).view
        ids = one.completion.prompt_ids
        shared = min(common_length(seen.get(view, ()), ids), len(ids) - 1)
        computed += len(ids) - shared
        total += len(ids)
        seen[view] = ids
    return computed, total


def test_counters_are_what_a_count_by_hand_gives(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    games = tiny_games(2, n_rounds=2, n_votes=3)
    stored, plain = (TransformersPolicy(model, processor, reuse_prefixes=reuse) for reuse in (True, False))
    played = play(games, Seating.of(stored), TOKEN_LIMITS, template="compact").games
    play(games, Seating.of(plain), TOKEN_LIMITS, template="compact")
    counts = [shared_prefix_by_hand(stored, game, "compact") for game in played]
    n_votes_prompt = sum(len(game.votes[0].completion.prompt_ids) for game in played)
    computed, total = (sum(column) for column in zip(*counts, strict=True))
    # G votes share one prompt: it counts once as computed, and twice more as reused.
    assert (plain.prefilled_tokens, plain.reused_tokens) == (total, 2 * n_votes_prompt)
    assert (stored.prefilled_tokens, stored.reused_tokens) == (computed, total - computed + 2 * n_votes_prompt)
    assert computed < 0.6 * total
    new = sum(len(said.completion.token_ids) for game in played for said in (*game.clues, *game.votes))
    assert stored.new_tokens == plain.new_tokens == new
    for game in played:
        assert [vote.completion.prompt_ids for vote in game.votes] == [game.votes[0].completion.prompt_ids] * 3


def test_a_second_prompt_computes_only_what_differs(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    """Twice the same beginning: the image and the words before the first difference are computed once."""
    (game,) = tiny_games(1)
    image = GameImage("image", NoiseImage("image").open())
    policy = TransformersPolicy(model, processor)
    (first,) = policy.answer([request_for("rules\nclues:\n1: red\n\nsay:", image, game=game)])
    assert policy.prefilled_tokens == len(first.prompt_ids)
    (second,) = policy.answer([request_for("rules\nclues:\n1: red\n2: blue\n\nvote:", image, game=game)])
    shared = common_length(first.prompt_ids, second.prompt_ids)
    assert second.prompt_ids[:shared].count(IMAGE_TOKEN) == 4
    assert policy.prefilled_tokens == len(first.prompt_ids) + len(second.prompt_ids) - shared
    assert policy.reused_tokens == shared
    # The same prompt again computes its last token alone, in another game too; about another image it starts anew.
    policy.answer([request_for("rules\nclues:\n1: red\n2: blue\n\nvote:", image, game=game)])
    assert policy.prefilled_tokens == len(first.prompt_ids) + len(second.prompt_ids) - shared + 1
    before = policy.prefilled_tokens
    policy.answer([request_for("rules\nclues:\n1: red\n2: blue\n\nvote:", image, game=replace(game, index=1))])
    assert policy.prefilled_tokens == before + 1
    other = GameImage("other", NoiseImage("other").open())
    policy.answer([request_for("rules\nclues:\n1: red\n2: blue\n\nvote:", other, game=game)])
    assert policy.prefilled_tokens == before + 1 + len(second.prompt_ids)


def test_a_forward_is_no_wider_than_its_prompts_need(
    model: PreTrainedModel, processor: ProcessorMixin, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that reuses its prefix is not padded to the width of one that is new; both say what they say alone."""
    (game,) = tiny_games(1)
    known, new = (GameImage(name, NoiseImage(name).open()) for name in ("known", "new"))
    texts = ["rules\nclues:\n1: red\n\nsay:", "rules\nclues:\n1: red\n2: blue\n\nvote:"]
    policy = TransformersPolicy(model, processor)
    policy.answer([request_for(texts[0], known, game=game)])
    widths: list[int] = []
    forward = model.model.language_model.forward

    def watched(*args: object, **kwargs: Any) -> object:
        widths.append(kwargs["inputs_embeds"].shape[1])
        return forward(*args, **kwargs)

    monkeypatch.setattr(model.model.language_model, "forward", watched)
    requests = [request_for(texts[0], new, game=game), request_for(texts[1], known, game=game)]
    requests += [request_for(texts[1], new, game=game)]
    together = policy.answer(requests)
    first, second = (len(one.prompt_ids) for one in together[:2])
    shared = common_length(together[0].prompt_ids, together[1].prompt_ids)
    assert widths[:3] == [second, second - shared, 1]
    assert first < second
    for request, said in zip(requests, together, strict=True):
        (alone,) = TransformersPolicy(model, processor, reuse_prefixes=False).answer([request])
        assert alone.token_ids == said.token_ids
        assert alone.logprobs == pytest.approx(said.logprobs, abs=1e-5)


def test_an_image_is_preprocessed_and_encoded_once(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    encoded: list[int] = []
    handle = model.model.visual.patch_embed.register_forward_hook(lambda m, args, out: encoded.append(len(args[0])))
    policy = TransformersPolicy(model, processor)
    pair = ImagePair("p", NoiseImage("p"), NoiseImage("q"))
    games = [deal(k, 0, pair, GameRules(2, 2, n_votes=2)) for k in range(3)]  # three games on two images
    try:
        play(games, Seating.of(policy), TOKEN_LIMITS, template="compact")
    finally:
        handle.remove()
    assert encoded == [16, 16]
    assert policy.images.preprocessed == 2


def test_new_weights_forget_what_the_old_ones_computed(processor: ProcessorMixin) -> None:
    model = sharpened(bench_model())
    requests = ragged_requests()
    policy = TransformersPolicy(model, processor)
    before = policy.answer(requests)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "visual" in name or "layers.0" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))))
    expected = TransformersPolicy(model, processor).answer(requests)
    stale = policy.answer(requests)
    assert any(
        one.logprobs != pytest.approx(other.logprobs, abs=1e-3) for one, other in zip(stale, expected, strict=True)
    )
    policy.new_weights()
    after = policy.answer(requests)
    assert_same_completions(after, expected)
    assert ids_of(after) != ids_of(before)


def test_lora_adapters_are_used_and_answer_as_the_merged_model_does(processor: ProcessorMixin) -> None:
    base = sharpened(bench_model())
    requests = ragged_requests()
    without = TransformersPolicy(base, processor).answer(requests)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        adapted = get_peft_model(base, lora).eval()
    completions = TransformersPolicy(adapted, processor).answer(requests)
    assert ids_of(completions) != ids_of(without)
    assert_same_completions(TransformersPolicy(adapted.merge_and_unload(), processor).answer(requests), completions)


def test_answering_leaves_the_model_as_it_was(processor: ProcessorMixin) -> None:
    model = bench_model()
    policy = TransformersPolicy(model, processor)
    random_state = torch.get_rng_state()
    for training in (True, False):
        model.train(training)
        completions = policy.answer(ragged_requests())
        assert model.training is training
        assert all(completion.logprobs for completion in completions)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)  # no global randomness


def test_no_requests_no_completions(model: PreTrainedModel, processor: ProcessorMixin) -> None:
    assert TransformersPolicy(model, processor).answer([]) == []

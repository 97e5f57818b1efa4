"""What tests want to know of the real vLLM engine, found out by programs in processes of their own.

An engine changes the process it lives in (process groups, threads, memory), so nothing else may share it. The import of
vLLM, 7 CPU seconds, is shared: the programs of one call are forked after it, one after the other.

    python -m tests.vllm_programs facts.json '[["policy"], ["internvl"]]'
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.prefix_reuse import best_possible_reuse
from tests.process_helpers import ROOT, run_program

TIMEOUT = 600
BLOCK = 32
CACHED_BLOCKS = 65  # one is vLLM's own: room for half of what the InternVL could read
TOKEN_LIMITS = (2, 12)
N_GAMES, ITERATIONS = 4, 6


def facts(folder: Path, *programs: Sequence[object]) -> list[dict[str, Any]]:
    """What each program, its name and words for it, found out. Fails with the end of their output if one does."""
    file = folder / "facts.json"
    command = ["-m", "tests.vllm_programs", str(file), json.dumps([list(map(str, words)) for words in programs])]
    ended = run_program(command, folder / "log", timeout=TIMEOUT)
    assert ended.status == 0, ended.output[-6000:]
    return json.loads(file.read_text("utf-8"))


def run_forked(program: str, *words: str) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile("r+", encoding="utf-8") as file:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                json.dump(PROGRAMS[program](*words), file)
                file.flush()
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0, f"{program} failed"
        file.seek(0)
        return json.load(file)


def completions_of(games: Sequence[Any]) -> list[dict[str, Any]]:
    return [asdict(said.completion) for game in games for said in (*game.clues, *game.votes)]


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> dict[str, Any]:
    """How many completions there are, how many differ in prompt or tokens, and the largest gap of a log-prob."""
    gaps = [
        abs(a - b)
        for one, other in zip(left, right, strict=True)
        for a, b in zip(one["logprobs"], other["logprobs"], strict=False)
    ]
    return {
        "completions": len(left),
        "other_prompts": sum(one["prompt_ids"] != other["prompt_ids"] for one, other in zip(left, right, strict=True)),
        "other_tokens": sum(one["token_ids"] != other["token_ids"] for one, other in zip(left, right, strict=True)),
        "gap": max(gaps),
    }


def make_engine(model: Any, processor: Any, sampling: Any, max_model_length: int | None = 2048, **more: Any) -> Any:
    from accelerate import Accelerator

    from vision_zero.rollout.vllm.colocate import ColocatedEngine
    from vision_zero.rollout.vllm.requests import EngineOptions

    options = EngineOptions(
        max_num_seqs=64,
        max_model_length=max_model_length,
        dtype="float32",
        enforce_eager=True,
        more={"block_size": BLOCK, **more},
    )
    return ColocatedEngine(model, Accelerator(cpu=True), processor, sampling, options)


def processor_ids(processor: Any, text: str, images: Sequence[Any]) -> list[int]:
    return list(processor(text=[text], images=[list(images)])["input_ids"][0])


def prompts_with_images(engine: Any, processor: Any) -> dict[str, bool]:
    """Whether the ids inside the engine are the processor's, by number of images, for images of different sizes."""
    from vllm import SamplingParams

    from tests.tiny_games import NoiseImage

    found = {}
    for n_images in (1, 2):
        images = [NoiseImage(f"many{i}", size).open() for i, size in enumerate([(112, 56), (84, 140)][:n_images])]
        content = [{"type": "image"}] * n_images + [{"type": "text", "text": "what differs?"}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        prompt = {
            "prompt_token_ids": processor.tokenizer(text)["input_ids"],
            "multi_modal_data": {"image": images},
        }
        engine.engine.add_request(f"images-{n_images}", prompt, SamplingParams(temperature=0, max_tokens=1))
        outputs = []
        while engine.engine.has_unfinished_requests():
            outputs += engine.engine.step()
        found[str(n_images)] = list(outputs[-1].prompt_token_ids) == processor_ids(processor, text, images)
    return found


def policy() -> dict[str, Any]:
    """Games of a random model on the engine and with transformers; sampled games; caches; weights that change."""
    import torch

    from tests.rollout.test_transformers_policy import forward_logprobs, sharpened
    from tests.tiny_games import bench_model, bench_processor, noise_pairs, tiny_games
    from vision_zero.rollout.game_images import open_images
    from vision_zero.rollout.play import Seating, play
    from vision_zero.rollout.policy import TokenLimits, TurnRequest
    from vision_zero.rollout.record import game_when, render
    from vision_zero.rollout.sampling import Sampling
    from vision_zero.rollout.transformers_policy import TransformersPolicy
    from vision_zero.rollout.vllm.colocate import VLLMPolicy
    from vision_zero.rollout.vllm.temperature import logit_makers

    temperature = 0.7
    model, processor = sharpened(bench_model()), bench_processor()
    greedy = Sampling(temperature=0)
    sampled = Sampling(temperature=temperature, top_k=40)
    engine = make_engine(model, processor, sampled, limit_mm_per_prompt={"image": 2, "video": 0})
    games = tiny_games(N_GAMES, n_civilians=4, n_rounds=2, n_votes=8, pairs=noise_pairs(N_GAMES, size=(112, 84)))
    token_limits = {"clue": TokenLimits(*TOKEN_LIMITS), "decision": TokenLimits(*TOKEN_LIMITS)}

    def on_engine(sampling: Any, **how: Any) -> tuple[Any, Any]:
        player = VLLMPolicy(engine.engine, model, processor, sampling)
        return player, play(games, Seating.of(player), token_limits, **how)

    def in_transformers() -> Any:
        return play(games, Seating.of(TransformersPolicy(model, processor, greedy)), token_limits)

    def logits_at(temperature: float) -> None:
        for maker in logit_makers(engine.inner_model):
            maker.scale = 1 / temperature

    found: dict[str, Any] = {
        "scales": [maker.scale for maker in logit_makers(engine.inner_model)],
        "temperature": temperature,
    }
    engine.sync_weights()
    logits_at(1.0)
    by_hand = in_transformers()
    _, continuous = on_engine(greedy)
    _, in_step = on_engine(greedy, lock_step=True)
    found["continuous"] = same(completions_of(by_hand.games), completions_of(continuous.games))
    found["lock_step"] = same(completions_of(by_hand.games), completions_of(in_step.games))

    # Sampled: by the turn's own seed, whatever is in the batch.
    engine.sync_weights()
    logits_at(temperature)
    player, continuous = on_engine(sampled)
    asked = [
        (
            continuous.images[said.turn.game, render(game_when(game, said), said.turn).view].key,
            said.completion.prompt_ids,
        )
        for number in range(max(len(game.clues) + len(game.votes) for game in continuous.games))
        for game in continuous.games
        for said in [(*game.clues, *game.votes)[number]]
    ]
    found["reused"], found["prefilled"] = player.reused_tokens, player.prefilled_tokens
    found["best_reuse"] = best_possible_reuse(asked, BLOCK)
    token_limits = {"clue": TokenLimits(32, 32), "decision": TokenLimits(32, 32)}
    _, in_step = on_engine(sampled, lock_step=True)
    _, all_long = on_engine(sampled)
    found["sampled"] = same(completions_of(in_step.games), completions_of(all_long.games))
    found["sampled_length"] = sorted({len(completion["token_ids"]) for completion in completions_of(all_long.games)})
    token_limits = {"clue": TokenLimits(*TOKEN_LIMITS), "decision": TokenLimits(*TOKEN_LIMITS)}
    found["sampled_greedily"] = same(completions_of(by_hand.games), completions_of(continuous.games))["other_tokens"]
    gaps = []
    for game in continuous.games[:2]:
        for said in (game.clues[0], game.clues[-1], game.votes[0]):
            prompt = render(game_when(game, said), said.turn)
            request = TurnRequest(
                game, said.turn, prompt, continuous.images[game.index, prompt.view], 0, token_limits[said.turn.stage]
            )
            expected = forward_logprobs(model, request, said.completion.token_ids, temperature)
            gaps += [abs(a - b) for a, b in zip(said.completion.logprobs, expected, strict=True)]
    found["sampled_gap"] = max(gaps)

    # Hot enough for every token to be as likely as any other: which are left out. Then ends that are all but certain.
    requests = first_turns(games, open_images(games), token_limits["clue"])
    logits_at(1e3)
    player = VLLMPolicy(engine.engine, model, processor, Sampling(temperature=1.0, top_k=0))
    completions = player.answer(requests)
    found["hot_tokens"] = sorted({token for completion in completions for token in completion.token_ids})
    found["hot_lengths"] = sorted({len(completion.token_ids) for completion in completions})
    player._bias = {**player._bias, player._ends[-1]: 100.0}
    completions = player.answer(requests)
    found["end"] = player._ends[-1]
    found["ended"] = sorted({(len(completion.token_ids), completion.token_ids[-1]) for completion in completions})
    logits_at(1.0)
    found["images"] = prompts_with_images(engine, processor)

    # Other weights, in the language model and in the vision tower.
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        for parameter in model.parameters():
            parameter.add_(0.3 * parameter.std() * torch.randn(parameter.shape, generator=generator))
    changed = in_transformers()
    found["changed"] = same(completions_of(by_hand.games), completions_of(changed.games))["other_tokens"]
    stale = type(engine).__mro__[1].sync_weights
    stale(engine)  # TRL's own, without the reset of the vision encoder's cache
    found["stale_encoder"] = same(completions_of(changed.games), completions_of(on_engine(greedy)[1].games))
    engine.sync_weights()
    found["synced"] = same(completions_of(changed.games), completions_of(on_engine(greedy)[1].games))

    # TRL's own prompts: the image's placeholders as the processor has expanded them.
    request = requests[0]
    expanded = continuous.games[0].clues[0].completion.prompt_ids
    player = VLLMPolicy(engine.engine, model, processor, greedy)
    player._prompt = lambda request: player.engine.renderer.render_cmpl(  # type: ignore[method-assign]
        [{"prompt_token_ids": list(expanded), "multi_modal_data": {"image": request.image}}]
    )[0]
    (twice,) = player.answer([request])
    found["expanded"], found["expanded_twice"] = len(expanded), len(twice.prompt_ids)
    return found


def first_turns(games: Sequence[Any], images: Any, token_limits: Any) -> list[Any]:
    """The first turn of every game, 16 times with other seeds."""
    from vision_zero.game.prompts import render
    from vision_zero.game.spy_game import open_turns, turn_seed
    from vision_zero.rollout.policy import TurnRequest

    made = []
    for game in games:
        turn = open_turns(game)[0]
        prompt = render(game, turn)
        for sample in range(16):
            one = replace(turn, sample=sample)
            image = images[game.index, prompt.view]
            made.append(TurnRequest(game, one, prompt, image, turn_seed(1, one), token_limits))
    return made


def internvl() -> dict[str, Any]:
    """The other family: image placeholders that the engine expands in another way, images in tiles."""
    from tests.rollout.test_transformers_policy import sharpened
    from tests.tiny_games import noise_pairs, tiny_games
    from tests.trainer.test_families import save_internvl
    from vision_zero.models import load_model, load_processor
    from vision_zero.rollout.play import Seating, play
    from vision_zero.rollout.policy import TokenLimits
    from vision_zero.rollout.sampling import Sampling
    from vision_zero.rollout.transformers_policy import TransformersPolicy
    from vision_zero.rollout.vllm.colocate import VLLMPolicy

    with tempfile.TemporaryDirectory() as folder:
        save_internvl(Path(folder), head_dim=32)
        model = sharpened(load_model(folder, dtype="float32"))
        processor = load_processor(folder)
        greedy = Sampling(temperature=0)
        cache = {"limit_mm_per_prompt": {"image": 2, "video": 0}, "num_gpu_blocks_override": CACHED_BLOCKS}
        engine = make_engine(model, processor, greedy, max_model_length=None, **cache)
        engine.sync_weights()
        games = tiny_games(3, pairs=noise_pairs(3, size=(112, 56)))
        token_limits = {"clue": TokenLimits(*TOKEN_LIMITS), "decision": TokenLimits(*TOKEN_LIMITS)}
        by_hand = play(games, Seating.of(TransformersPolicy(model, processor, greedy)), token_limits)
        played = play(games, Seating.of(VLLMPolicy(engine.engine, model, processor, greedy)), token_limits)
        return {
            "images": prompts_with_images(engine, processor),
            "games": same(completions_of(by_hand.games), completions_of(played.games)),
            "longest": [engine.engine.model_config.max_model_len, model.config.text_config.max_position_embeddings],
        }


def family(name: str) -> dict[str, Any]:
    """Games of a family of `tests.trainer.test_families`, with other weights than those of its files."""
    import torch

    from tests.tiny_games import noise_pairs, tiny_games
    from tests.trainer.test_families import saved_family
    from vision_zero.models import load_model, load_processor
    from vision_zero.rollout.play import Seating, play
    from vision_zero.rollout.policy import TokenLimits
    from vision_zero.rollout.sampling import Sampling
    from vision_zero.rollout.transformers_policy import TransformersPolicy
    from vision_zero.rollout.vllm.colocate import VLLMPolicy

    with tempfile.TemporaryDirectory() as folder:
        known = saved_family(name, Path(folder) / "model")
        model, processor = load_model(known.folder, dtype="float32"), load_processor(str(known.folder))
        engine = make_engine(model, processor, Sampling(temperature=0))
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.03)
        engine.sync_weights()
        games = tiny_games(3, pairs=noise_pairs(3, size=known.image_size))
        token_limits = {"clue": TokenLimits(*TOKEN_LIMITS), "decision": TokenLimits(*TOKEN_LIMITS)}
        policies = (
            TransformersPolicy(model, processor, Sampling(temperature=0)),
            VLLMPolicy(engine.engine, model, processor, Sampling(temperature=0)),
        )
        return same(*(completions_of(play(games, Seating.of(one), token_limits).games) for one in policies))


def training() -> dict[str, Any]:
    """A run of the tiny model, then games with what it became; and a run whose engine is left behind."""
    from tests.trainer_helpers import make_trainer
    from vision_zero.data.pairs import load_pairs
    from vision_zero.models import load_processor
    from vision_zero.rollout.play import Seating, play
    from vision_zero.rollout.policy import PromptTooLongError, TokenLimits
    from vision_zero.rollout.sampling import Sampling
    from vision_zero.rollout.transformers_policy import TransformersPolicy
    from vision_zero.rollout.vllm.colocate import VLLMPolicy
    from vision_zero.rollout.vllm.temperature import logit_makers
    from vision_zero.trainer.generation import LogprobGapError
    from vision_zero.trainer.iterative_spo import every_role
    from vision_zero.types import GameRules

    model = ROOT / "data" / "tiny_vlm"
    token_limits = {"clue": TokenLimits(0, 24), "decision": TokenLimits(0, 16)}
    with tempfile.TemporaryDirectory() as folder:
        trainer = make_trainer(
            Path(folder),
            model=model,
            processor=load_processor(str(model)),
            pairs=load_pairs(ROOT / "data" / "drawn"),
            games=4,
            rules=GameRules(n_civilians=4, n_rounds=2, n_votes=8),
            players=every_role,
            iterations=ITERATIONS,
            schedule="cycle",
            cycle_decision=3,
            cycle_clue=3,
            max_clue_tokens=24,
            max_vote_tokens=16,
            learning_rate=3e-4,
            max_grad_norm=1.0,
            use_vllm=True,
            vllm_max_model_length=1024,
            vllm_block_size=BLOCK,
        )
        before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
        trainer.train()
        logs = [line for line in trainer.state.log_history if "loss" in line]
        unmoved = [name for name, p in trainer.model.named_parameters() if p.equal(before[name])]
        trainer.vllm_generation.sync_weights()
        games, images = trainer._deal(range(8))
        greedy = Sampling(temperature=0)
        processor = trainer.processing_class
        by_hand = play(
            games, Seating.of(TransformersPolicy(trainer.model, processor, greedy)), token_limits, images=images
        )
        player = VLLMPolicy(trainer.vllm_generation.engine, trainer.model, processor, greedy)
        for maker in logit_makers(trainer.vllm_generation.inner_model):
            maker.scale = 1.0
        played = play(games, Seating.of(player), token_limits, images=images)

        # Completions for which the engine has no room beside the prompt.
        inputs = [{"game": k} for k in range(4) for _ in range(8)]
        trainer.args.max_clue_tokens = 1000
        try:
            trainer._generate_and_score_completions(inputs)
            too_long = ""
        except PromptTooLongError as error:
            too_long = str(error)
        trainer.args.max_clue_tokens = 24

        # Weights that the engine is not told of: the next step must not be taken.
        import torch

        with torch.no_grad():
            for parameter in trainer.model.parameters():
                parameter.add_(
                    parameter.std() * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
                )
        trainer.vllm_generation.sync_weights = lambda: None
        trainer.args.max_steps = trainer.state.max_steps = ITERATIONS + 1
        try:
            trainer._generate_and_score_completions(inputs)
            refusal = ""
        except LogprobGapError as error:
            refusal = str(error)
        return {
            "logs": logs,
            "unmoved": unmoved,
            "after": same(completions_of(by_hand.games), completions_of(played.games)),
            "refusal": refusal,
            "too_long": too_long,
        }


def lora(folder: str, dtype: str, iterations: str, resume_at: str = "0") -> dict[str, Any]:
    """A run with a LoRA adapter."""
    from tests.lora_runs import lora_run

    options = {"vllm_max_model_length": 1024, "vllm_block_size": BLOCK}
    return lora_run(Path(folder), dtype, int(iterations), int(resume_at), **options)


PROGRAMS = {program.__name__: program for program in (policy, internvl, family, training, lora)}

if __name__ == "__main__":
    import vision_zero.rollout.vllm.colocate  # noqa: F401 (vLLM, and nothing that starts a thread)

    assert len(os.listdir("/proc/self/task")) == 1, "a fork would lack the other threads"
    Path(sys.argv[1]).write_text(json.dumps([run_forked(*words) for words in json.loads(sys.argv[2])]), "utf-8")

"""Supervised training of the tiny model: growing lessons first, then games."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoProcessor

from tiny_vlm.games import GUESSES, game_examples, mixed_examples
from tiny_vlm.lessons import (
    LessonExample,
    false_clues_lesson,
    judging_lesson,
    lookups_lesson,
    naming_lesson,
    shapes_lesson,
    voting_lesson,
)
from tiny_vlm.questions import QUESTIONS
from vision_zero.data.drawn_scenes import SHAPES
from vision_zero.rollout.image_store import chat_text


class Encoder:
    """Examples as a batch of tensors, padded on the right, made by the model's own processor."""

    def __init__(self, folder: Path) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "right"

    def batch(self, examples: Sequence[LessonExample]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """The model's inputs, and targets [B, T]: the next token where it is learnt, -100 elsewhere."""
        texts = [f"{chat_text(self.processor, example.prompt)}{example.completion}<|im_end|>" for example in examples]
        inputs = self.processor(
            text=texts,
            images=[[example.image.convert("RGB")] for example in examples],
            padding=True,
            return_tensors="pt",
        )
        ids_BT = inputs["input_ids"]
        targets_BT = torch.full_like(ids_BT, -100)
        ends = inputs["attention_mask"].sum(-1).tolist()
        for number, (example, end) in enumerate(zip(examples, ends, strict=True)):
            completion = self.tokenizer(f"{example.completion}<|im_end|>")["input_ids"]
            learnt = self._learnt(example, completion)
            targets_BT[number, end - len(completion) - 1 : end - 1] = torch.tensor(learnt)
        return dict(inputs), targets_BT

    def truths(self, ids_BT: torch.Tensor, examples: Sequence[LessonExample]) -> torch.Tensor:
        """[B, T]: " yes" or " no" at the last word of every claim with a known truth, else -100."""
        yes, no, *shapes = (self.tokenizer(f" {word}")["input_ids"][0] for word in ("yes", "no", *SHAPES))
        truths_BT = torch.full_like(ids_BT, -100)
        for number, example in enumerate(examples):
            places = torch.isin(ids_BT[number], torch.tensor(shapes)).nonzero().flatten().tolist()
            for place, true in zip(places[: len(example.truths)], example.truths, strict=True):
                truths_BT[number, place] = yes if true else no
        return truths_BT

    def _learnt(self, example: LessonExample, completion: list[int]) -> list[int]:
        if example.answers is None:
            return completion
        return [token if self.tokenizer.decode([token]) in example.answers else -100 for token in completion]


def loss_and_accuracy(model: Any, encoder: Encoder, examples: Sequence[LessonExample]) -> tuple[torch.Tensor, float]:
    """Mean cross-entropy over learnt tokens, and the share of them that is the likeliest token.

    An auxiliary loss predicts the truth of a claim at its last word from the input of the last layer, where a vote can
    attend to it. Without it votes stay at chance, with it they are learnt in a hundred steps.
    """
    inputs, targets_BT = encoder.batch(examples)
    learnt = targets_BT != -100
    truths_BT = encoder.truths(inputs["input_ids"], examples)
    judged = truths_BT != -100
    outputs = model(**inputs, output_hidden_states=True)
    logits_NV, targets_N = outputs.logits[learnt], targets_BT[learnt]
    accuracy = (logits_NV.argmax(-1) == targets_N).float().mean().item()
    loss = torch.nn.functional.cross_entropy(logits_NV, targets_N)
    if judged.any():
        before_last_NH = model.model.language_model.norm(outputs.hidden_states[-2][judged])
        loss = loss + torch.nn.functional.cross_entropy(model.lm_head(before_last_NH), truths_BT[judged])
    return loss, accuracy


@dataclass(frozen=True)
class Plan:
    """Hyperparameters of one phase of training."""

    lesson_steps: int = 1200
    game_steps: int = 1200
    batch_size: int = 32
    learning_rate: float = 1e-3
    guesses: float = GUESSES


class GrowingLesson:
    """Lesson with levels: the next one begins when the running accuracy of this one passes `grows_at`."""

    def __init__(self, name: str, levels: Sequence[Callable[[random.Random], LessonExample]], grows_at: float) -> None:
        self.name, self.levels, self.grows_at = name, list(levels), grows_at
        self.level, self.accuracy = 0, 0.0

    def example(self, rng: random.Random) -> LessonExample:
        """Example mostly of this level, else of any up to it, so that none is forgotten."""
        level = self.level if rng.random() < 0.7 else rng.randint(0, self.level)
        return self.levels[level](rng)

    def update(self, accuracy: float) -> None:
        self.accuracy += 0.1 * (accuracy - self.accuracy)
        if self.accuracy > self.grows_at and self.level + 1 < len(self.levels):
            self.level, self.accuracy = self.level + 1, self.grows_at - 0.2

    def is_learnt(self) -> bool:
        return self.level + 1 == len(self.levels) and self.accuracy > self.grows_at


class Lessons:
    """Curriculum: shapes and look-up, then naming and judging claims, then false clues and votes.

    A lesson that is learnt is repeated three times less often.
    """

    def __init__(self) -> None:
        sizes = ((3, 1), (5, 1), (5, 2), (9, 2))
        self.shapes = GrowingLesson("shapes", [partial(shapes_lesson, n_objects=n) for n in range(1, 7)], 0.85)
        self.lookups = GrowingLesson(
            "who said",
            [partial(lookups_lesson, max_players=n, max_rounds=rounds) for n, rounds in ((7, 1), (9, 2))],
            0.85,
        )
        self.naming = GrowingLesson("names", [partial(naming_lesson, n_objects=n) for n in (2, 4, 6)], 0.88)
        self.judging = GrowingLesson("true", [partial(judging_lesson, n_objects=n) for n in (2, 4, 6)], 0.85)
        self.false_clues = GrowingLesson(
            "false clues", [partial(false_clues_lesson, n_players=n, n_rounds=rounds) for n, rounds in sizes], 0.8
        )
        self.votes = GrowingLesson(
            "votes", [partial(voting_lesson, n_players=n, n_rounds=rounds) for n, rounds in sizes], 0.9
        )

    def begun(self) -> list[GrowingLesson]:
        lessons = [self.shapes, self.lookups]
        if self.shapes.level >= 3:
            lessons += [self.naming, self.judging]
        if self.judging.level >= 1:
            lessons += [self.false_clues, self.votes]
        return lessons

    def next(self, rng: random.Random) -> GrowingLesson:
        lessons = self.begun()
        return rng.choices(lessons, [1 if lesson.is_learnt() else 3 for lesson in lessons])[0]


def train(model: Any, encoder: Encoder, plan: Plan, seed: int) -> None:
    """Train on lessons, then on games and single questions with a falling learning rate."""
    rng = random.Random(f"vision-zero/tiny-vlm/{seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    lessons = Lessons()
    pool: list[list[LessonExample]] = []
    total = plan.lesson_steps + plan.game_steps
    model.train()
    progress = tqdm(range(total), desc="tiny model", mininterval=5)
    for step in progress:
        lesson = None
        if step < plan.lesson_steps:
            lesson = lessons.next(rng)
            examples = [lesson.example(rng) for _ in range(plan.batch_size)]
        else:
            pool = pool or batches_by_length(rng, plan)
            examples = pool.pop()
        loss, accuracy = loss_and_accuracy(model, encoder, examples)
        if lesson is not None:
            lesson.update(accuracy)
        for group in optimizer.param_groups:
            group["lr"] = plan.learning_rate * rate_factor(step, plan)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0:
            levels = ", ".join(f"{one.name} level {one.level} {one.accuracy:.2f}" for one in lessons.begun())
            progress.write(f"step {step}: loss {loss.item():.3f}, {levels}")
    model.eval()


def rate_factor(step: int, plan: Plan) -> float:
    """Warm-up over 50 steps, constant through the lessons, then a cosine to nothing."""
    warm = min(1.0, (step + 1) / 50)
    done = max(0, step - plan.lesson_steps) / max(1, plan.game_steps)
    return warm * 0.5 * (1 + math.cos(math.pi * done))


def batches_by_length(rng: random.Random, plan: Plan, n_batches: int = 12) -> list[list[LessonExample]]:
    """Batches of examples of similar length, for little padding, in any order."""
    size = plan.batch_size
    examples = mixed_examples(rng, size * n_batches, plan.guesses)
    examples.sort(key=lambda example: example.image.width * example.image.height / 784 + len(example.prompt) / 3)
    batches = [examples[start : start + size] for start in range(0, len(examples), size)]
    rng.shuffle(batches)
    return batches


def held_out_losses(model: Any, encoder: Encoder, n_examples: int = 96) -> dict[str, tuple[float, float]]:
    """Loss and token accuracy on games and per kind of question, on examples of another seed."""
    rng = random.Random("vision-zero/tiny-vlm/held-out")
    kinds = {"games": [example for _ in range(8) for example in game_examples(rng)]}
    kinds |= {name: [question(rng) for _ in range(n_examples)] for name, (question, _) in QUESTIONS.items()}
    results = {}
    with torch.no_grad():
        for kind, examples in kinds.items():
            examples = [replace(example, truths=()) for example in examples[:n_examples]]
            loss, accuracy = loss_and_accuracy(model, encoder, examples)
            results[kind] = (loss.item(), accuracy)
            print(f"held-out {kind}: loss {loss.item():.3f}, tokens right {accuracy:.3f}")
    return results

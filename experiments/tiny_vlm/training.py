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

from tiny_vlm.games import GUESSES, game_rows, mixed_rows
from tiny_vlm.lessons import (
    Row,
    false_clues_lesson,
    judging_lesson,
    lookups_lesson,
    naming_lesson,
    shapes_lesson,
    voting_lesson,
)
from tiny_vlm.questions import QUESTIONS
from vision_zero.data.drawn_scenes import SHAPES
from vision_zero.rollout.transformers_policy import chat_text


class Encoder:
    """Rows as a batch of tensors, padded on the right, made by the model's own processor."""

    def __init__(self, folder: Path) -> None:
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer
        self.tokenizer.padding_side = "right"

    def batch(self, rows: Sequence[Row]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """What the model takes, and targets [B, T]: the next token where it is learnt, -100 elsewhere."""
        texts = [f"{chat_text(self.processor, row.prompt)}{row.reply}<|im_end|>" for row in rows]
        inputs = self.processor(
            text=texts, images=[[row.image.convert("RGB")] for row in rows], padding=True, return_tensors="pt"
        )
        ids_BT = inputs["input_ids"]
        targets_BT = torch.full_like(ids_BT, -100)
        ends = inputs["attention_mask"].sum(-1).tolist()
        for number, (row, end) in enumerate(zip(rows, ends, strict=True)):
            reply = self.tokenizer(f"{row.reply}<|im_end|>")["input_ids"]
            learnt = self._learnt(row, reply)
            targets_BT[number, end - len(reply) - 1 : end - 1] = torch.tensor(learnt)
        return dict(inputs), targets_BT

    def truths(self, ids_BT: torch.Tensor, rows: Sequence[Row]) -> torch.Tensor:
        """[B, T]: " yes" or " no" at the shape of every claim of the prompt whose truth the row knows, else -100."""
        yes, no, *shapes = (self.tokenizer(f" {word}")["input_ids"][0] for word in ("yes", "no", *SHAPES))
        truths_BT = torch.full_like(ids_BT, -100)
        for number, row in enumerate(rows):
            places = torch.isin(ids_BT[number], torch.tensor(shapes)).nonzero().flatten().tolist()
            for place, true in zip(places[: len(row.truths)], row.truths, strict=True):
                truths_BT[number, place] = yes if true else no
        return truths_BT

    def _learnt(self, row: Row, reply: list[int]) -> list[int]:
        if row.answers is None:
            return reply
        return [token if self.tokenizer.decode([token]) in row.answers else -100 for token in reply]


def loss_and_accuracy(model: Any, encoder: Encoder, rows: Sequence[Row]) -> tuple[torch.Tensor, float]:
    """Mean cross-entropy over learnt tokens, and the share of them that is the likeliest token.

    Claims whose truth is known are judged where they stand, by what enters the last layer: there the vote can look for
    them. Without this the vote stays at chance, with it it takes a hundred steps.
    """
    inputs, targets_BT = encoder.batch(rows)
    learnt = targets_BT != -100
    truths_BT = encoder.truths(inputs["input_ids"], rows)
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
    """How long and how fast. A growing lesson gets harder when the last answers were right often enough."""

    lesson_steps: int = 1200
    game_steps: int = 1200
    batch_size: int = 32
    learning_rate: float = 1e-3
    guesses: float = GUESSES


class GrowingLesson:
    """A lesson with levels: the next one begins when the running accuracy of this one passes `grows_at`."""

    def __init__(self, name: str, levels: Sequence[Callable[[random.Random], Row]], grows_at: float) -> None:
        self.name, self.levels, self.grows_at = name, list(levels), grows_at
        self.level, self.accuracy = 0, 0.0

    def row(self, rng: random.Random) -> Row:
        """Mostly of this level, and of all before it so that they are not forgotten."""
        level = self.level if rng.random() < 0.7 else rng.randint(0, self.level)
        return self.levels[level](rng)

    def saw(self, accuracy: float) -> None:
        self.accuracy += 0.1 * (accuracy - self.accuracy)
        if self.accuracy > self.grows_at and self.level + 1 < len(self.levels):
            self.level, self.accuracy = self.level + 1, self.grows_at - 0.2

    def is_learnt(self) -> bool:
        return self.level + 1 == len(self.levels) and self.accuracy > self.grows_at


class Lessons:
    """The ladder: seeing and looking up; once it sees, judging claims; once it judges, finding who said what is false.

    A lesson that is learnt is repeated three times less often.
    """

    def __init__(self) -> None:
        tables = ((3, 1), (5, 1), (5, 2), (9, 2))
        self.shapes = GrowingLesson("shapes", [partial(shapes_lesson, n_objects=n) for n in range(1, 7)], 0.85)
        self.lookups = GrowingLesson(
            "who said",
            [partial(lookups_lesson, max_players=n, max_rounds=rounds) for n, rounds in ((7, 1), (9, 2))],
            0.85,
        )
        self.naming = GrowingLesson("names", [partial(naming_lesson, n_objects=n) for n in (2, 4, 6)], 0.88)
        self.judging = GrowingLesson("true", [partial(judging_lesson, n_objects=n) for n in (2, 4, 6)], 0.85)
        self.false_clues = GrowingLesson(
            "false clues", [partial(false_clues_lesson, n_players=n, n_rounds=rounds) for n, rounds in tables], 0.8
        )
        self.votes = GrowingLesson(
            "votes", [partial(voting_lesson, n_players=n, n_rounds=rounds) for n, rounds in tables], 0.9
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
    """The lessons in turn, then games and single questions with a falling learning rate."""
    rng = random.Random(f"vision-zero/tiny-vlm/{seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    lessons = Lessons()
    pool: list[list[Row]] = []
    total = plan.lesson_steps + plan.game_steps
    model.train()
    progress = tqdm(range(total), desc="tiny model", mininterval=5)
    for step in progress:
        lesson = None
        if step < plan.lesson_steps:
            lesson = lessons.next(rng)
            rows = [lesson.row(rng) for _ in range(plan.batch_size)]
        else:
            pool = pool or batches_by_length(rng, plan)
            rows = pool.pop()
        loss, accuracy = loss_and_accuracy(model, encoder, rows)
        if lesson is not None:
            lesson.saw(accuracy)
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


def batches_by_length(rng: random.Random, plan: Plan, n_batches: int = 12) -> list[list[Row]]:
    """Rows of like length together, so that little is padding; the batches in any order."""
    size = plan.batch_size
    rows = mixed_rows(rng, size * n_batches, plan.guesses)
    rows.sort(key=lambda row: row.image.width * row.image.height / 784 + len(row.prompt) / 3)
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    rng.shuffle(batches)
    return batches


def held_out_losses(model: Any, encoder: Encoder, n_rows: int = 96) -> dict[str, tuple[float, float]]:
    """Loss and token accuracy on games and per kind of question, on rows of another seed."""
    rng = random.Random("vision-zero/tiny-vlm/held-out")
    kinds = {"games": [row for _ in range(8) for row in game_rows(rng)]}
    kinds |= {name: [question(rng) for _ in range(n_rows)] for name, (question, _) in QUESTIONS.items()}
    results = {}
    with torch.no_grad():
        for kind, rows in kinds.items():
            rows = [replace(row, truths=()) for row in rows[:n_rows]]
            loss, accuracy = loss_and_accuracy(model, encoder, rows)
            results[kind] = (loss.item(), accuracy)
            print(f"held-out {kind}: loss {loss.item():.3f}, tokens right {accuracy:.3f}")
    return results

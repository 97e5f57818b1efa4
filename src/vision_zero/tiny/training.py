"""Supervised training of the tiny model: growing lessons first, then games."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoProcessor

from vision_zero.rollout.transformers import chat_text
from vision_zero.tiny.lessons import (
    Row,
    game_rows,
    lookup_question,
    lookups_lesson,
    mixed_rows,
    shape_question,
    shapes_lesson,
)


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

    def _learnt(self, row: Row, reply: list[int]) -> list[int]:
        if row.answers is None:
            return reply
        return [token if self.tokenizer.decode([token]) in row.answers else -100 for token in reply]


def loss_and_accuracy(model: Any, encoder: Encoder, rows: Sequence[Row]) -> tuple[torch.Tensor, float]:
    """Mean cross-entropy over learnt tokens, and the share of them that is the likeliest token."""
    inputs, targets_BT = encoder.batch(rows)
    learnt = targets_BT != -100
    logits_NV, targets_N = model(**inputs).logits[learnt], targets_BT[learnt]
    accuracy = (logits_NV.argmax(-1) == targets_N).float().mean().item()
    return torch.nn.functional.cross_entropy(logits_NV, targets_N), accuracy


@dataclass(frozen=True)
class Plan:
    """How long and how fast. A growing lesson gets harder when the last answers were right often enough."""

    lesson_steps: int = 450
    game_steps: int = 700
    batch_size: int = 32
    learning_rate: float = 1e-3
    grows_at: float = 0.85


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


def lessons(plan: Plan) -> list[GrowingLesson]:
    """Seeing (1 to 6 objects), and looking up (more players, more rounds)."""
    kinds: dict[str, list[Callable[[random.Random], Row]]] = {
        "shape": [partial(shapes_lesson, n_objects=n) for n in range(1, 7)],
        "who said": [partial(lookups_lesson, max_players=n, max_rounds=rounds) for n, rounds in ((7, 1), (9, 2))],
    }
    return [GrowingLesson(name, levels, plan.grows_at) for name, levels in kinds.items()]


def train(model: Any, encoder: Encoder, plan: Plan, seed: int) -> None:
    """The lessons in turn, then games and single questions with a falling learning rate."""
    rng = random.Random(f"vision-zero/tiny-vlm/{seed}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, 0.98), weight_decay=0.0)
    taught = lessons(plan)
    pool: list[list[Row]] = []
    total = plan.lesson_steps + plan.game_steps
    model.train()
    progress = tqdm(range(total), desc="tiny model", mininterval=5)
    for step in progress:
        lesson = None
        if step < plan.lesson_steps:
            lesson = taught[step % 2]
            rows = [lesson.row(rng) for _ in range(plan.batch_size)]
        else:
            pool = pool or batches_by_length(rng, plan.batch_size)
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
            levels = ", ".join(f"{lesson.name} level {lesson.level} {lesson.accuracy:.2f}" for lesson in taught)
            progress.write(f"step {step}: loss {loss.item():.3f}, {levels}")
    model.eval()


def rate_factor(step: int, plan: Plan) -> float:
    """Warm-up over 50 steps, constant through the lessons, then a cosine to nothing."""
    if step < plan.lesson_steps:
        return min(1.0, (step + 1) / 50)
    done = (step - plan.lesson_steps) / max(1, plan.game_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def batches_by_length(rng: random.Random, batch_size: int, n_batches: int = 12) -> list[list[Row]]:
    """Rows of like length together, so that little is padding; the batches in any order."""
    rows = mixed_rows(rng, batch_size * n_batches)
    rows.sort(key=lambda row: row.image.width * row.image.height / 784 + len(row.prompt) / 3)
    batches = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    rng.shuffle(batches)
    return batches


def held_out_losses(model: Any, encoder: Encoder, n_rows: int = 96) -> dict[str, tuple[float, float]]:
    """Loss and token accuracy per kind of row, on rows of another seed."""
    rng = random.Random("vision-zero/tiny-vlm/held-out")
    kinds: dict[str, Callable[[], list[Row]]] = {
        "games": lambda: [row for _ in range(8) for row in game_rows(rng)],
        "who said": lambda: [lookup_question(rng, rng.randint(3, 9), rng.choice((1, 2))) for _ in range(n_rows)],
        "shape": lambda: [shape_question(rng) for _ in range(n_rows)],
    }
    results = {}
    with torch.no_grad():
        for kind, make in kinds.items():
            loss, accuracy = loss_and_accuracy(model, encoder, make()[:n_rows])
            results[kind] = (loss.item(), accuracy)
            print(f"held-out {kind}: loss {loss.item():.3f}, tokens right {accuracy:.3f}")
    return results

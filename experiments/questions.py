"""Single questions (`tiny_vlm/questions.py`), the same for every model: the measure of the study of transfer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText

from tiny_vlm.measuring import questions_right
from vision_zero.data.drawn_scenes import drawn_pair
from vision_zero.game.spy_game import deal
from vision_zero.models import load_processor
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.transformers_policy import TransformersPolicy
from vision_zero.run_folder import EXPORT
from vision_zero.types import GameRules


def export_of(model: Path) -> Path:
    """The export of a checkpoint; a model's own folder."""
    return model / EXPORT if (model / EXPORT).is_dir() else model


@contextmanager
def policy_of(model: Path, sampling: Sampling) -> Iterator[TransformersPolicy]:
    """`model`: a model's folder or a checkpoint of a run."""
    folder = export_of(model)
    loaded = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    policy = TransformersPolicy(loaded, load_processor(str(folder)), sampling)
    try:
        yield policy
    finally:
        policy.images.clear()  # transformers caches bound methods of image processors: they outlive it


def answers(model: Path) -> Mapping[str, Sequence[float]]:
    """1.0 for every question of a kind whose likeliest answer is right. `model`: a model's folder or a checkpoint."""
    with policy_of(model, Sampling(1.0, top_k=1)) as policy:
        return questions_right(policy, deal(0, 0, drawn_pair(0), GameRules()))

"""A model against its base, question by question, on the same benchmark in the same environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vision_zero.intervals import Interval, paired


@dataclass(frozen=True)
class Comparison:
    """Scores in 0..1 with 95% intervals over questions. `difference` is the mean of (model - base) per question;
    `better` and `worse` count the questions that the model answers better and worse."""

    questions: int
    base: Interval
    model: Interval
    difference: Interval
    better: int
    worse: int


def compare_questions(base: Mapping[str, float], model: Mapping[str, float]) -> Comparison:
    """`base`, `model`: a score per question, by its name.

    Raises ValueError when the two did not answer the same questions: then nothing is paired.
    """
    if base.keys() != model.keys():
        only_base, only_model = len(base.keys() - model.keys()), len(model.keys() - base.keys())
        raise ValueError(
            f"the two did not answer the same questions: {only_base} only the base, {only_model} only the model"
        )
    if not base:
        raise ValueError("no question was answered")
    names = sorted(base)
    ours, theirs = [model[name] for name in names], [base[name] for name in names]
    return Comparison(
        questions=len(names),
        base=Interval.of(theirs),
        model=Interval.of(ours),
        difference=paired(ours, theirs),
        better=sum(a > b for a, b in zip(ours, theirs, strict=True)),
        worse=sum(a < b for a, b in zip(ours, theirs, strict=True)),
    )

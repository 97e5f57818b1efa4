"""Result lines with figures of our own."""

from __future__ import annotations

from typing import Any


def window(iteration: int, is_clue: bool, na_rate: float, of_the_spy: float) -> dict[str, Any]:
    figures = {"stage/is_clue": float(is_clue), "stage/na_rate": na_rate, "votes/invalid": 0.1}
    figures |= {"reward/civilian": -0.25, "reward/spy": 1.0}
    figures |= {"advantage/civilian": 0.0, "advantage/spy": of_the_spy}
    return {"iteration": iteration, "figures": figures}


def line(arm: str, seed: int, win_rate: float, **other: Any) -> dict[str, Any]:
    figures = {"win_rate": [win_rate, 0, 1], "against_itself": [0.5, 0, 1], "votes/right": [0.4, 0, 1]}
    figures |= {"table_gain": [0.125, 0, 1]}
    return {
        "study": "made-up",
        "arm": arm,
        "seed": seed,
        "status": "done",
        "base": "b",
        "key": "k",
        "run": "runs/x",
        "start": "data/tiny_vlm",
        "commit": "0123abcd",
        "curve_games": 20,
        "switches": [{"iteration": 5, "to": "clue", "reason": "rule"}],
        "final": {"games": 400, "figures": figures},
        "curve": [{"iteration": 0, "figures": {"win_rate": [0.5, 0, 1]}}, {"iteration": 2, "figures": figures}],
        "training": [window(5, True, 0.2, 0.3), window(10, False, 0.6, 9.0), window(15, True, 0.7, 0.1)],
        **other,
    }


def without_training(one: dict[str, Any]) -> dict[str, Any]:
    """As lines were before they had figures of training."""
    return {name: value for name, value in one.items() if name != "training"}


FIRST = [line("first", seed, value) for seed, value in ((1, 0.5), (2, 0.6), (3, 0.7))]
SECOND = [line("second", seed, value) for seed, value in ((1, 0.6), (2, 0.8), (3, 0.8))]

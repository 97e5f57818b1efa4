"""Would it pay to play the next games while the last ones train? By the plan's arithmetic: python benchmarks/overlap.py

A fixed number of GPUs is split: some play games k + 1 with vLLM while the others train on games k, and an iteration
takes the longer of the two. Today every GPU plays and then trains. The two are compared at the same games per
iteration, and with twice the games per GPU for today's way: the split way learns from games that are one update old,
and who can bear that can bear larger iterations, whose games play faster. Both reach the same efficiencies, which are
assumed. It renews the table of docs/performance.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from vision_zero.plan.fit import GIVEN, card_of, memory, peak, seconds, setup
from vision_zero.plan.shape import read_shape

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
HEAD = (
    "| 7B, all weights | clue / vote tokens | efficiencies | plays + trains | best split | its seconds "
    "| same games | twice the games |"
)
SHAPE = read_shape("qwen2.5-vl-7b")
REPLIES = ((32, 128), (238, 238), (512, 512))
"""Tokens of a clue and of a vote in the mean."""
MACHINES = ((8, "A100"), (8, "H100 80GB HBM3"), (16, "A100"), (32, "H100 80GB HBM3"))
PLAYING = ("decode (vllm)", "prefill")


@cache
def halves(gpus: int, gpu: str, games: int, reply: tuple[int, int], end: int) -> tuple[float, float]:
    """Seconds of playing and of training on so many GPUs; `end` of the efficiencies: 0 the worst, 1 the best."""
    clue, vote = reply
    wanted = setup(gpus=gpus, gpu=gpu, player="vllm", games=games, mean_tokens=clue)
    parts = seconds(SHAPE, wanted, vote_tokens=vote)
    taken = {part: floor / GIVEN["efficiency"][part][end] for part, floor in parts.items()}
    plays = sum(taken.pop(part) for part in PLAYING)
    return plays, sum(taken.values())


def trains(gpus: int, gpu: str) -> bool:
    """Whether so many GPUs hold the training, without games and arena."""
    alone = setup(gpus=gpus, gpu=gpu, arena=False)
    phases = {name: parts for name, parts in memory(SHAPE, alone).items() if name != "rollout"}
    return peak(phases)[1] <= card_of(alone).gib


def table(machines: Sequence[tuple[int, str]] = MACHINES) -> str:
    games = setup().games
    lines = [HEAD, "|" + "---|" * HEAD.count(" | ") + "---|"]
    for gpus, gpu in machines:
        for reply in REPLIES:
            for end, named in enumerate(("worst", "best")):
                plays, then = halves(gpus, gpu, games, reply, end)
                twice = sum(halves(gpus, gpu, 2 * games, reply, end)) / 2
                splits = {}
                for players in range(1, gpus):
                    if trains(gpus - players, gpu):
                        played = halves(players, gpu, games, reply, end)[0]
                        trained = halves(gpus - players, gpu, games, reply, end)[1]
                        splits[players] = max(played, trained)
                players, least = min(splits.items(), key=lambda one: one[1])
                same, half = (plays + then) / least, twice / least
                lines.append(
                    f"| {gpus} × {gpu.split()[0]} | {reply[0]} / {reply[1]} | {named} | {plays:.0f} + {then:.0f} s | "
                    f"{players} + {gpus - players} | {least:.0f} | {same:.2f}× | {half:.2f}× |"
                )
    return "\n".join(lines)


if __name__ == "__main__":
    page = PAGE.read_text("utf-8")
    start = page.index(HEAD)
    PAGE.write_text(page[:start] + table() + page[page.index("\n\n", start) :], "utf-8")

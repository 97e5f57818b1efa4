"""Bars on a real terminal (a pseudo-terminal of the system), and none where there is no terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import termios
from pathlib import Path

import pytest

from tests.process_helpers import ROOT, running
from vision_zero.evaluate.win_rate.arena import make_arena
from vision_zero.evaluate.win_rate.match import Match
from vision_zero.evaluate.win_rate.metrics import CROSS_PLAY
from vision_zero.rollout.load_policy import ModelPlayer
from vision_zero.rollout.progress import game_bar

PROGRAM = """
import time
from vision_zero.rollout.progress import game_bar
with game_bar("playing", 4, 40, shown={shown}) as answered:
    for _ in range(4):
        time.sleep(0.3)
        answered(10)
"""


def on_a_terminal(program: str) -> str:
    """Output of a program to a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    said = b""
    with running(program=["-c", program], log=Path(os.ttyname(theirs))) as process:
        while True:
            ended = process.poll() is not None
            if select.select([ours], [], [], 0.2)[0]:
                said += os.read(ours, 4096)
            elif ended:
                break
        assert process.wait() == 0, said
    os.close(theirs)
    os.close(ours)
    return said.decode()


def test_games_per_second_and_the_time_left() -> None:
    said = on_a_terminal(PROGRAM.format(shown=True))
    shown = re.findall(r"playing:\s+(\d+)%\|[^|]*\| ([\d.]+)/4 games \[(\S+)<(\S+),\s+([\d.]+) games/s\]", said)
    assert [(percent, games) for percent, games, *_ in shown][:3] == [("25", "1.0"), ("50", "2.0"), ("75", "3.0")]
    rates = [float(rate) for *_, rate in shown]
    assert all(2 < rate < 3.4 for rate in rates)  # a game in 0.3 s
    assert shown[0][3] in ("00:00", "00:01")  # three games at that rate


def test_no_bar_where_it_is_not_wanted() -> None:
    assert "games" not in on_a_terminal(PROGRAM.format(shown=False))


def test_no_bar_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    with game_bar("playing", 4, 40) as answered:
        answered(40)
    assert capsys.readouterr().err == ""


UPDATE = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.trainer_helpers import make_trainer
from vision_zero.trainer.callbacks import UpdateBar
from vision_zero.types import GameRules
trainer = make_trainer(
    Path({folder!r}), games=4, rules=GameRules(n_civilians=2, n_rounds=1, n_votes=4), disable_tqdm=False,
    callbacks=[UpdateBar()], schedule="decision",
)
trainer.train()
"""


def test_a_run_shows_playing_and_updating(tmp_path: Path) -> None:
    said = on_a_terminal(UPDATE.format(root=str(ROOT), folder=str(tmp_path)))
    assert re.search(r"playing \(decision\):\s+\d+%.*?/4 games", said)
    assert re.search(r"updating:\s+\d+%.*?/4 games", said)


def test_an_evaluation_knows_how_many_turns_it_will_ask_for() -> None:
    """`on_call` gets as many turns as `size` announces, for the first model and for the next."""
    from tests.tiny_games import bench_model, bench_processor, noise_pairs
    from vision_zero.rollout.policy import TokenLimits
    from vision_zero.rollout.sampling import Sampling
    from vision_zero.rollout.transformers_policy import TransformersPolicy
    from vision_zero.types import GameRules

    rules = GameRules(n_civilians=2, n_rounds=1, n_votes=2)
    token_limits = {"clue": TokenLimits(0, 3), "decision": TokenLimits(0, 3)}
    arena = make_arena(noise_pairs(3), rules, token_limits, n_deals=3)  # type: ignore[arg-type]
    player = ModelPlayer(TransformersPolicy(bench_model(), bench_processor(), Sampling(1.0, 0, 1.0), max_batch=16))
    told: list[int] = []
    match = Match(arena, player, on_call=told.append)
    assert match.size(CROSS_PLAY, 2) == ((5 * 2 + 1) * 3, 3 * ((5 * 2 + 1) * 5 + 3 * 2))
    games, turns = match.size(CROSS_PLAY)
    match.against(player, CROSS_PLAY)
    assert (games, sum(told)) == (6 * 3, turns)
    told.clear()
    _, turns = match.size(CROSS_PLAY)
    match.against(player, CROSS_PLAY)
    assert sum(told) == turns == 3 * (5 * 5 + 2)

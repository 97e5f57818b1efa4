"""The processes of a run: how they meet, and which one is named when a wait does not end.

A thread of every process tells the others, through the run's TCPStore, that it lives and what it does. A process that
is stopped, hangs or is gone leaves the others in a collective; the thread names it and ends its own process. Whoever
claims the store's key `error` first prints why the run ends, the others are silent. One process has none of this.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed
from torch.distributed import PrefixStore, TCPStore

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
OTHER_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
"""How many processes mpirun or srun started; accelerate reads the first three on a CPU, where they would not agree."""
GONE, DONE = "gone", "done"
REMEDY = f"Start the run with torchrun; if this process is to train alone: unset {' '.join(LAUNCHED)}"


class RankError(ValueError):
    """Processes that cannot meet: variables that contradict each other, or processes that are not there."""


def _number(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name, str(default))
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise RankError(f"{name}={text} in the environment is no whole number from {least}. {REMEDY}")
    return int(text)


def world_size() -> int:
    return _number("WORLD_SIZE", 1, least=1)


def check_environment() -> None:
    """Raises RankError for variables from which libraries would conclude different numbers of processes."""
    world, rank, local = world_size(), _number("RANK", 0), _number("LOCAL_RANK", 0)
    found = " ".join(f"{name}={os.environ[name]}" for name in LAUNCHED if os.environ.get(name))
    missing = [name for name in LAUNCHED if not os.environ.get(name)]
    if missing and (world > 1 or "LOCAL_RANK" not in missing):
        raise RankError(f"{found} in the environment, but no {' '.join(missing)}. {REMEDY}")
    if (
        rank >= world
        or local > rank
        or local >= _number("LOCAL_WORLD_SIZE", world)
        or _number("MASTER_PORT", 1) > 65535
    ):
        raise RankError(f"{found} in the environment contradict each other. {REMEDY}")
    for name in OTHER_LAUNCHERS if "WORLD_SIZE" in missing else ():
        if _number(name, 1) > 1:
            raise RankError(
                f"{name}={os.environ[name]} in the environment, but no WORLD_SIZE: processes of mpirun and srun do not "
                f"know each other; let them start torchrun, once per machine, or unset {name}"
            )


def join(rendezvous_timeout: float, timeout: float, backend: str | None) -> None:
    """Meet the other processes and, with a `backend`, form the group, which accelerate on a CPU does without `timeout`.

    Raises RankError when some are not there within `rendezvous_timeout` seconds.
    """
    global watch
    check_environment()
    if watch is not None or world_size() == 1 or torch.distributed.is_initialized():
        return
    rank, address, port = int(os.environ["RANK"]), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    hosts = rank == 0 and not _agent_hosts()
    said, wait = f"nothing answers at {address}:{port}", timedelta(seconds=rendezvous_timeout)
    try:
        tcp = TCPStore(address, port, None, hosts, wait, wait_for_workers=False, multi_tenant=True)
        meeting = Watch(
            PrefixStore(f"watch{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", tcp), rank, timeout, hosts
        )
        meeting.store.set(str(rank), meeting.sign())
        try:
            meeting.store.wait(meeting.keys, wait)
        except RuntimeError:
            absent = [key for key in meeting.keys if not meeting.store.check([key])]
            said = f"{world_size() - len(absent)} of {world_size()} processes came, but not rank {', '.join(absent)},"
            raise
    except RuntimeError as error:
        found = " ".join(f"{name}={os.environ[name]}" for name in LAUNCHED)
        raise RankError(
            f"{said} within {rendezvous_timeout:g} s (rendezvous_timeout), with {found} in the environment. {REMEDY}"
        ) from error
    watch = meeting
    for thread in watch.threads:
        thread.start()
    if backend is not None:
        tcp.set_timeout(limit := timedelta(seconds=timeout))
        group = PrefixStore("group", tcp)
        torch.distributed.init_process_group(backend, store=group, rank=rank, world_size=world_size(), timeout=limit)


def _agent_hosts() -> bool:
    """Whether torchrun keeps the store; rank 0 does under other launchers."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _machine() -> str:
    """The machine and its space of process ids; "" where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _state(sign: dict[str, Any]) -> str:
    """What the kernel says of a process: GONE, "T" for stopped, another letter, "" for one of another machine."""
    if not sign["machine"] or sign["machine"] != _machine():
        return ""
    try:
        letter = Path(f"/proc/{sign['pid']}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return GONE
    return GONE if letter in "ZX" else letter


class Watch:
    """Signs of life of all processes, each in the store under its rank."""

    def __init__(self, store: PrefixStore, rank: int, limit: float, hosts: bool) -> None:
        self.store, self.rank, self.limit, self.hosts = store, rank, limit, hosts
        self.keys = [str(one) for one in range(world_size())]
        self.own: dict[str, Any] = {"doing": "starting", "since": time.strftime("%X"), "arrived": 0, "moved": 0}
        self.own |= {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
        self.signs: list[dict[str, Any]] = []
        self.answered = self.progress = time.monotonic()
        self.beaten, self.kept_up = ([self.answered] * len(self.keys) for _ in range(2))
        self.told, self.gone_since = False, dict[int, float]()
        self.failed, self.closed, self.every = threading.Event(), threading.Event(), min(1.0, limit / 5)
        self.advice: Callable[[], str] = str
        self.threads = [threading.Thread(target=one, daemon=True) for one in (self._talk, self._judge)]

    def sign(self) -> str:
        return json.dumps({**self.own, "beat": time.monotonic()})

    def _talk(self) -> None:
        store, ending = self.store.clone(), False  # a store answers one thread at a time
        while True:
            try:
                store.set(str(self.rank), self.sign())
                signs = [json.loads(one) for one in store.multi_get(self.keys)]
                self.told = self.told or store.check(["error"])
            except RuntimeError:
                return
            self.answered = time.monotonic()
            for rank, (sign, before) in enumerate(zip(signs, self.signs or signs, strict=True)):
                if sign["beat"] != before["beat"]:
                    self.beaten[rank] = self.answered
                if moved := any(sign[count] != before[count] for count in ("arrived", "moved")):
                    self.progress = self.answered
                if moved or sign["arrived"] == max(one["arrived"] for one in signs):
                    self.kept_up[rank] = self.answered
            self.signs = signs
            if ending:
                return
            ending = self.closed.wait(self.every)

    def _judge(self) -> None:
        while not self.closed.wait(0.1 if self.failed.is_set() else self.every):
            if self.told:
                os._exit(1)
            if lost := self._lost():
                if self.claims():
                    print(f"error: {lost}; all processes end. {self.advice()}", file=sys.stderr, flush=True)
                    self.wait_for_ends()
                os._exit(1)

    def _lost(self) -> str:
        """The process that the others wait for in vain, "" if there is none. A collective that failed hurries it."""
        now, hurry = time.monotonic(), self.failed.is_set()
        limit = 3 * self.every if hurry else self.limit
        silent = now - self.answered
        for rank, sign in enumerate(self.signs):
            if rank == self.rank or sign["doing"] == DONE:
                continue
            state, name = _state(sign), self._name(rank)
            if state == GONE and now - self.gone_since.setdefault(rank, now) >= (0 if hurry else 3):
                return f"{name}, was killed or crashed"
            if silent <= 3 * self.every and now - self.beaten[rank] > limit:
                stopped = ", it is stopped" if state == "T" else ""
                return f"{name}, has given no sign of life for {now - self.beaten[rank]:.0f} s{stopped}"
            if now - self.kept_up[rank] > self.limit and not silent > 3 * self.every:
                return f"{name}, has come no further for {self.limit:g} s while others wait for it"
        if silent > max(limit, 3 * self.every):
            host = "torchrun" if _agent_hosts() else self._name(0) if self.signs else "rank 0"
            return f"{host}, which keeps the run's store, has given no answer for {silent:.0f} s"
        if hurry and now - self.progress > self.limit:
            return f"no process has come further for {self.limit:g} s: " + "; ".join(
                map(self._name, range(len(self.keys)))
            )
        return ""

    def _name(self, rank: int) -> str:
        sign = self.signs[rank]
        return f"rank {rank} (host {sign['host']}, pid {sign['pid']}), last {sign['doing']} since {sign['since']}"

    def claims(self) -> bool:
        """Whether this process prints why the run ends: the first that asks, or the lowest alive without a store."""
        self.closed.set()
        answers: list[bool] = []

        def ask() -> None:
            with suppress(RuntimeError):
                answers.append(self.store.compare_set("error", "", str(self.rank)) == str(self.rank).encode())

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        asking.join(3)
        alive = [
            rank for rank, sign in enumerate(self.signs) if rank == self.rank or _state(sign) not in (GONE, "T", "")
        ]
        return answers[0] if answers else not self.told and self.rank == min(alive)

    def wait_for_ends(self) -> None:
        """The process that keeps the store ends after those that read in it why."""
        end = time.monotonic() + 3
        while (
            self.hosts
            and time.monotonic() < end
            and any(rank != self.rank and _state(sign) not in (GONE, "T") for rank, sign in enumerate(self.signs))
        ):
            time.sleep(0.05)

    def close(self) -> None:
        self.closed.set()
        for thread in self.threads:
            thread.join(3)
        self.wait_for_ends()


watch: Watch | None = None


def at(doing: str = "", *, alone: bool = False) -> None:
    """Tell the others what this process does. Each call but those of `alone` is one that all processes make."""
    if watch is not None:
        watch.own["moved" if alone else "arrived"] += 1
        if doing and doing != watch.own["doing"]:
            watch.own |= {"doing": doing, "since": time.strftime("%X")}


def blame_others() -> None:
    """After an error that another process may have caused: when one did, this process ends here."""
    if watch is not None:
        watch.failed.set()
        watch.threads[1].join(5)


@contextmanager
def one_error() -> Iterator[None]:
    """Of the processes that end in the block with a message or an exception, one prints it."""
    try:
        yield
        at(DONE)
    except SystemExit as end:
        at(DONE)
        alone = isinstance(end.__context__, RankError)
        speaks = watch.claims() if watch else alone or os.environ.get("LOCAL_RANK", "0") == "0"
        sys.exit(end.code if speaks or not isinstance(end.code, str) else 1)
    except Exception:
        blame_others()
        if watch is not None and not watch.claims():
            os._exit(1)
        raise
    finally:
        if watch is not None:
            watch.close()


def advise(how_to_go_on: Callable[[], str]) -> None:
    """What to do after a stop, printed with it."""
    if watch is not None:
        watch.advice = how_to_go_on

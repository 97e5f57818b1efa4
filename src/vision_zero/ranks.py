"""The processes of a run: how they meet, and which one is named when the others wait for it in vain.

Two threads of every process write into the run's TCPStore what it does, and look for one that is stopped, hangs or is
gone: it leaves the others in a collective, so the thread says so and ends its process. Of processes that end with an
error, the first to ask the store prints it. One process has neither threads nor a store.
"""

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed
from torch._C._distributed_c10d import TCPStore
from torch.distributed.distributed_c10d import PrefixStore

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


def nodes() -> int:
    """How many machines torchrun was started on; 1 under other launchers."""
    return _number("GROUP_WORLD_SIZE", 1, least=1)


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
    """Meet the other processes and, with a `backend`, form the group, which accelerate does on a CPU without `timeout`.

    Raises RankError when some are not there within `rendezvous_timeout` seconds.
    """
    global watch
    check_environment()
    if watch is not None or world_size() == 1 or torch.distributed.is_initialized():
        return
    rank, address, port = int(os.environ["RANK"]), os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    wait, present = timedelta(seconds=rendezvous_timeout), []
    try:
        keeps = rank == 0 and not _torchrun_keeps_store()
        tcp = TCPStore(address, port, None, keeps, wait, wait_for_workers=False, multi_tenant=True)
        meeting = Watch(tcp, rank, timeout)
        try:
            meeting.store.wait(meeting.keys, wait)
        except RuntimeError:
            present = [key for key in meeting.keys if meeting.store.check([key])]
            raise
    except RuntimeError as error:
        who = f"{len(present)} of {world_size()} processes came (rank {', '.join(present)})"
        found = " ".join(f"{name}={os.environ[name]}" for name in LAUNCHED)
        raise (RankError if present[:1] in ([], [str(rank)]) else ValueError)(
            f"{who if present else f'nothing answers at {address}:{port}'} within {rendezvous_timeout:g} s "
            f"(rendezvous_timeout), with {found} in the environment. {REMEDY}"
        ) from error
    watch = meeting
    watch.talker.start()
    watch.judge.start()
    if backend is not None:
        tcp.set_timeout(limit := timedelta(seconds=timeout))
        group = PrefixStore(f"group{_restarts()}", tcp)
        torch.distributed.init_process_group(backend, store=group, rank=rank, world_size=world_size(), timeout=limit)


def _restarts() -> str:
    """How often torchrun has begun again, in the names of keys: its store keeps those of the attempt before."""
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _torchrun_keeps_store() -> bool:
    """Under other launchers rank 0 does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _machine() -> str:
    """The machine and its space of process ids; "" where that cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _state(sign: dict[str, Any]) -> str:
    """What the kernel says of a process: GONE, "T" for stopped, another letter; "" for one of another machine."""
    if not sign["machine"] or sign["machine"] != _machine():
        return ""
    try:
        letter = Path(f"/proc/{sign['pid']}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return GONE
    return GONE if letter in "ZX" else letter


class Watch:
    """What every process does, in the store under its rank as JSON: its sign of life."""

    def __init__(self, tcp: TCPStore, rank: int, limit: float) -> None:
        self.rank, self.limit, self.every = rank, limit, min(1.0, limit / 5)
        self.keys = [str(one) for one in range(world_size())]
        self.own: dict[str, Any] = {"doing": "starting", "since": time.strftime("%X"), "arrived": 0}
        self.own |= {"host": socket.gethostname(), "pid": os.getpid(), "machine": _machine()}
        self.store = PrefixStore(f"watch{_restarts()}", tcp)
        self.store.set(str(rank), json.dumps(self.own))
        self.signs: list[dict[str, Any]] = []
        self.answered = self.progress = time.monotonic()
        self.beaten, self.level, self.seen = ([self.answered] * len(self.keys) for _ in range(3))
        self.told, self.claiming = False, False
        self.first: bool | None = None
        self.advice: Callable[[], str] = str
        self.failed, self.closed = threading.Event(), threading.Event()
        self.talker, self.judge = (threading.Thread(target=one, daemon=True) for one in (self._talk, self._look))

    def _talk(self) -> None:
        store, last = self.store.clone(), False  # a connection serves one thread at a time
        while not last:
            last = self.closed.wait(self.every)
            try:
                store.set(str(self.rank), json.dumps({**self.own, "beat": time.monotonic()}))
                signs = [json.loads(one) for one in store.multi_get(self.keys)]
                self.told = store.check(["error"])
                if self.claiming:
                    self.first = store.compare_set("error", "", str(self.rank)) == str(self.rank).encode()
            except RuntimeError:
                return
            now = self.answered = time.monotonic()
            for rank, (sign, before) in enumerate(zip(signs, self.signs or signs, strict=True)):
                if sign != before:
                    self.beaten[rank] = now
                if sign["arrived"] != before["arrived"]:
                    self.level[rank] = self.progress = now
                if sign["arrived"] == max(one["arrived"] for one in signs):
                    self.level[rank] = now
            self.signs = signs

    def _look(self) -> None:
        while not self.closed.wait(0.1 if self.failed.is_set() else self.every):
            if self.told or (lost := self._lost()):
                if self.claims():
                    print(f"error: {lost}; all processes end. {self.advice()}", file=sys.stderr, flush=True)
                self.let_others_read()
                os._exit(1)

    def _lost(self) -> str:
        """The process that the others wait for in vain, "" if there is none. A failed collective makes it urgent."""
        now, urgent = time.monotonic(), self.failed.is_set()
        limit, silence = 3 * self.every if urgent else self.limit, now - self.answered
        for rank, sign in enumerate(self.signs):
            state, name = _state(sign), self._name(rank)
            if state != GONE:
                self.seen[rank] = now
            if rank == self.rank or sign["doing"] == DONE:
                continue
            if now - self.seen[rank] > (0 if urgent else 3):  # or it is done and its last sign not yet read
                return f"{name}, was killed or crashed"
            if silence < 3 * self.every and now - self.beaten[rank] > limit:
                stopped = ", it is stopped" if state == "T" else ""
                return f"{name}, gave no sign of life for {now - self.beaten[rank]:.0f} s{stopped}"
            if silence < 3 * self.every and now - self.level[rank] > self.limit:
                return f"{name}, came no further for {self.limit:g} s while others wait for it"
        if silence > max(limit, 3 * self.every):
            keeper = self._name(0) if self.signs else "rank 0"
            keeper = f"torchrun of {keeper}" if _torchrun_keeps_store() else keeper
            return f"{keeper}, which keeps the run's store, gave no answer for {silence:.0f} s"
        if urgent and now - self.progress > self.limit:
            names = "; ".join(self._name(int(key)) for key in self.keys)
            return f"no process came further for {self.limit:g} s: {names}"
        return ""

    def _name(self, rank: int) -> str:
        sign = self.signs[rank]
        return f"rank {rank} (host {sign['host']}, pid {sign['pid']}), last {sign['doing']} since {sign['since']}"

    def claims(self) -> bool:
        """Whether this process prints why all end: the first that asks the store; without one, the lowest alive."""
        self.claiming = True
        self.closed.set()
        self.talker.join(3)
        if self.first is not None or self.told:
            return bool(self.first)
        signs = enumerate(self.signs)
        return self.rank == min(rank for rank, one in signs if rank == self.rank or _state(one) not in (GONE, "T", ""))

    def let_others_read(self) -> None:
        """Whoever keeps the store stays until the others know that the run ends: of several machines, rank 0's."""
        with_torchrun = nodes() > 1 and os.environ.get("GROUP_RANK") == "0"  # which ends with its first process
        if with_torchrun if _torchrun_keeps_store() else self.rank == 0:
            time.sleep(3 * self.every)


watch: Watch | None = None
last = {"doing": "loading"}


def at(doing: str) -> None:
    """Note what this process does, for the others, where all processes come in the same order; "": as before."""
    last["doing"] = doing or last["doing"]
    if watch is not None:
        watch.own["arrived"] += 1
        if doing and doing != watch.own["doing"]:
            watch.own |= {"doing": doing, "since": time.strftime("%X")}


def blame_others() -> None:
    """After an error that another process may have caused: if one did, this process ends here."""
    if watch is not None:
        watch.failed.set()
        watch.judge.join(4 * watch.every)


@contextmanager
def one_error() -> Iterator[None]:
    """Of the processes that end in the block with a message or an exception, one prints it."""
    try:
        yield
        at(DONE)
    except SystemExit as end:
        if isinstance(end.code, str):
            alone = isinstance(end.__context__, RankError)
            if not (watch.claims() if watch else alone or os.environ.get("LOCAL_RANK", "0") == "0"):
                sys.exit(1)
        else:
            at(DONE)
        raise
    except Exception:
        blame_others()
        if watch is not None and not watch.claims():
            os._exit(1)
        raise
    finally:
        if watch is not None:
            watch.closed.set()
            watch.talker.join(3)
            if watch.claiming:
                watch.let_others_read()

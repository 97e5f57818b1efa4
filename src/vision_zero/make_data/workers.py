"""Pool of processes that work through numbers: spawned, with one thread of linear algebra each.

`concurrent.futures` cannot close what a worker opened (a renderer) and does not report how a worker died and on which
number. Its workers outlive a killed parent, and closing a pool waits for their current numbers.
"""

import os
import signal
import sys
import traceback
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import cast

from vision_zero.data.errors import BadImageError, PairSourceError
from vision_zero.make_data.maker import MakerError
from vision_zero.make_data.output import PairJob

SECONDS_TO_STOP = 10.0  # for a worker to finish its number and close what it opened, before it is terminated
# Two such threads on a shared machine are slower than one, and their number can change the last digit of a product.
_ONE_THREAD = {f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL", "NUMEXPR")}


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    number: int | None = None


def work(job: PairJob, numbers: Sequence[int], n_workers: int) -> Generator[dict[str, int]]:
    """Results of `job` for each number in the order of completion, from at most `n_workers` processes.

    The job is pickled into the workers, and opened once in each. Raises MakerError when a worker dies or fails; the
    others are stopped first, as they are when the generator is closed.
    """
    todo = iter(numbers)
    workers: list[_Worker] = []
    try:
        with _one_thread_each():
            for _ in range(min(n_workers, len(numbers))):
                workers.append(_start(job))
        busy = {worker.pipe: worker for worker in workers if _give(worker, todo)}
        while busy:
            for pipe in wait(list(busy)):
                worker = busy[cast("Connection", pipe)]
                yield _receive(worker, job)
                if not _give(worker, todo):
                    del busy[worker.pipe]
    finally:
        _stop(workers)


def _start(job: PairJob) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_run, args=(job, theirs), daemon=True)
    # A new process executes the file of `__main__` again, which a script without a guard is not made for.
    main = sys.modules["__main__"]
    if type(job.maker).__module__ != "__main__":
        sys.modules["__main__"] = ModuleType("__main__")
    try:
        process.start()
    finally:
        sys.modules["__main__"] = main
    theirs.close()  # or the end of the worker would not be the end of the pipe
    return _Worker(process, ours)


def _give(worker: _Worker, todo: Iterator[int]) -> bool:
    """Send the next number; without one, None ends the worker. Returns True if there was a number."""
    worker.number = next(todo, None)
    _tell(worker.pipe, worker.number)  # if it died, the end of its pipe is read next, and says so
    return worker.number is not None


def _receive(worker: _Worker, job: PairJob) -> dict[str, int]:
    """The result for the worker's number. Raises MakerError, with what ended it, if it failed or died."""
    assert worker.number is not None
    where = job.describe(worker.number)
    try:
        result: dict[str, int] | MakerError | str = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(SECONDS_TO_STOP)
        how, status = f"ended with status {worker.process.exitcode}", worker.process.exitcode or 0
        if status < 0:
            how = f"was killed by {signal.Signals(-status).name}"
        if status == -signal.SIGKILL:
            how += " (as a system out of memory does: try fewer --workers)"
        result = MakerError(f"a worker {how} at {where}; what is done is kept, the same command continues")
    if isinstance(result, str):  # a maker's own mistake
        raise MakerError(f"{where} cannot be made:\n{result}")
    if isinstance(result, MakerError):
        raise result
    return result


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.pipe.close()
    for worker in workers:
        worker.process.join(SECONDS_TO_STOP)
    for end in ("terminate", "kill"):
        for worker in workers:
            if worker.process.is_alive():
                getattr(worker.process, end)()
                worker.process.join(SECONDS_TO_STOP)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Set the environment of new processes: a library reads its number of threads when it is loaded."""
    before = {name: os.environ[name] for name in _ONE_THREAD if name in os.environ}
    os.environ.update(_ONE_THREAD)
    try:
        yield
    finally:
        for name in _ONE_THREAD:
            del os.environ[name]
        os.environ.update(before)


def _run(job: PairJob, pipe: Connection) -> None:
    """Main function of a worker. It ends after the last number, and when its parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # through `finally`, so that a renderer is closed
    try:
        with job.open() as do:
            for number in iter(lambda: _next(pipe), None):
                _tell(pipe, do(number))
    except MakerError as error:
        _tell(pipe, error)
    except (BadImageError, PairSourceError) as error:
        advice = "repair it and give the same command, or begin another --out without it"
        _tell(pipe, MakerError(f"{error}; {advice}"))
    except Exception:  # the parent says at which pair
        _tell(pipe, traceback.format_exc().rstrip())


def _next(pipe: Connection) -> int | None:
    """The next number; None at the end or when the parent is gone."""
    try:
        return cast("int | None", pipe.recv())
    except (EOFError, OSError):
        return None


def _tell(pipe: Connection, what: object) -> None:
    with suppress(OSError):  # the other process is gone, as the next `recv` will see
        pipe.send(what)

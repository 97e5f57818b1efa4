"""torchrun that ends as its workers do: `python run_scripts/torchrun.py [options of torchrun]`.

Its status is theirs, 130 or 143 after a signal, and their last line is the last one; torchrun's own is 1, under a
traceback. What it does with signals is set in the environment (`launch.sh`).
"""

from __future__ import annotations

import logging
import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there are workers

from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main

if __name__ == "__main__":
    logging.getLogger("torch.distributed.elastic").setLevel(logging.ERROR)  # each signal, passed to each worker
    try:
        main()
    except SignalException as stopped:
        sys.exit(130 if stopped.sigval == signal.SIGINT else 143)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            sys.exit(f"error: rank {rank} was ended by {failure.signal_name()}")
        sys.exit(failure.exitcode)

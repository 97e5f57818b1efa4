"""`python tests/server_train.py HANG_AT SERVER [options of vision_zero.train]`: training with a vLLM server on a CPU.

Weights go to it through a file. In rollout HANG_AT, after the self-check's, which is rollout 0, a server stands still,
and SILENCE seconds are enough to call it lost: SERVER is its process group, 0 for none.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from dataclasses import replace

from tests.vllm_server_helpers import DiskEngine
from vision_zero.rollout.vllm import server

SILENCE = 3


def hanging_engine(hang_at: int, group: int) -> type[DiskEngine]:
    class HangingEngine(DiskEngine):
        rollouts = 0

        def policy(self) -> server.ServerPolicy:
            if group and self.rollouts == hang_at:
                for one in self.servers.alive:
                    one.options = replace(one.options, silence_timeout=SILENCE)
                if self.accelerator.is_main_process:
                    os.killpg(group, signal.SIGSTOP)
            self.rollouts += 1
            return super().policy()

    return HangingEngine


if __name__ == "__main__":
    _, hang_at, group, *sys.argv[1:] = sys.argv
    server.ServerEngine = hanging_engine(int(hang_at), int(group))  # type: ignore[misc]
    runpy.run_module("vision_zero.train", run_name="__main__", alter_sys=True)

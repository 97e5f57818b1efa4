"""`python tests/fsdp_train.py [options of vision_zero.train]`: training with FSDP2 on a CPU, over gloo.

accelerate leaves FSDP out where processes are `MULTI_CPU`; here its state says FSDP for them, as it does for those of
GPUs. All else is real: accelerate's preparation, torch's `fully_shard`, its collectives and its state dicts.
"""

from __future__ import annotations

from typing import Any

from accelerate import state
from accelerate.utils import DistributedType

from vision_zero import train

_init = state.AcceleratorState.__init__


def _with_fsdp(self: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
    _init(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
    if fsdp_plugin is not None and self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = state.PartialState._shared_state["distributed_type"] = DistributedType.FSDP
        if self._mixed_precision != "no":
            fsdp_plugin.set_mixed_precision(self._mixed_precision)
        self.fsdp_plugin = fsdp_plugin


def main() -> None:
    state.AcceleratorState.__init__ = _with_fsdp
    train.main()


if __name__ == "__main__":
    main()

"""FSDP2 (`fsdp_config`): every process has a part of every parameter, and the whole ones while games are played.

accelerate splits parameters on GPUs alone. Elsewhere it makes FSDP plain data parallelism and says nothing, which is
refused here; what is split is asked of the parameters themselves.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from trl.models.utils import unwrap_model_for_generation

from vision_zero.rollout.self_check import SelfCheckError

INSTEAD = "use --deepspeed configs/deepspeed/zero3.json"


def check_backend(accelerator: Accelerator, fsdp: bool) -> None:
    """Raises ValueError where accelerate has made something else of what was asked for."""
    if accelerator.distributed_type == DistributedType.FSDP and not fsdp:
        raise ValueError("accelerate switched FSDP on; give its file by --fsdp_config, and start with torchrun")
    if fsdp and accelerator.distributed_type != DistributedType.FSDP:
        kind = accelerator.distributed_type.value
        raise ValueError(f"fsdp_config: accelerate makes FSDP {kind} here, where it finds no GPU; {INSTEAD}")


def check_split(model: Any) -> None:
    """Raises SelfCheckError for a parameter that a prepared model holds whole."""
    for name, parameter in model.named_parameters():
        if not isinstance(parameter, DTensor):
            raise SelfCheckError(f"fsdp_config: {name} is not split over the processes; {INSTEAD}")


@contextmanager
def whole_weights(wrapped: Any, accelerator: Accelerator, **options: Any) -> Iterator[PreTrainedModel]:
    """TRL's `unwrap_model_for_generation`, which gathers ZeRO-3's parameters, and FSDP's gathered too.

    All processes enter and leave together; within it they may do unequal numbers of forwards.
    """
    with unwrap_model_for_generation(wrapped, accelerator, **options) as model:
        if not isinstance(model, FSDPModule):
            yield model
            return
        model._get_fsdp_state()._lazy_init()  # this is the root, whichever part a player calls first
        parts = [part for part in model.modules() if isinstance(part, FSDPModule)]
        groups = [group for part in parts for group in part._get_fsdp_state()._fsdp_param_groups]
        after_forward = [group.post_forward_mesh_info for group in groups]
        try:
            for part in parts:
                part.set_reshard_after_forward(False, recurse=False)
                part.unshard()
            yield model
        finally:
            for group, mesh in zip(groups, after_forward, strict=True):
                group.post_forward_mesh_info = mesh
            model.reset_iter_state()  # split again, also what a player left in the middle of a forward

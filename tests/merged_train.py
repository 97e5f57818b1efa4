"""`python tests/merged_train.py [options of vision_zero.train]`: training with LoRA, then what an engine would be sent.

Base and merged weights, gathered by all processes, go to `base.safetensors` and `merged.safetensors` of the run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from trl.distributed import DistributedBackend

from vision_zero import train
from vision_zero.rollout.lora import merged_parameters

finish = train.finish


def finish_and_merge(trainer: Any) -> None:
    finish(trainer)
    gather = DistributedBackend(trainer.accelerator).gather_params
    found: dict[str, dict[str, torch.Tensor]] = {"merged": {}, "base": {}}
    for name, weight in merged_parameters(trainer.model, gather):
        found["merged"][name] = weight.clone()
    for name, weight in trainer.model.get_base_model().named_parameters():
        with gather([weight]):
            if "lora_" not in name:
                found["base"][name.replace(".base_layer", "")] = weight.detach().clone()
    if trainer.accelerator.is_main_process:
        for file, weights in found.items():
            save_file(weights, Path(trainer.args.output_dir) / f"{file}.safetensors")


if __name__ == "__main__":
    train.finish = finish_and_merge
    train.main()

"""TRL's GRPOTrainer, imported without vLLM.

TRL imports vLLM wherever it is installed, whether or not a run plays with it: a third of every start, and its noise. A
run that does imports `rollout.vllm`, which loads TRL's modules for it again; until then TRL says there is no vLLM.
"""

from trl import import_utils

_is_vllm_available = import_utils.is_vllm_available
import_utils.is_vllm_available = lambda *_, **__: False
try:
    from trl import GRPOTrainer
finally:
    import_utils.is_vllm_available = _is_vllm_available

__all__ = ["GRPOTrainer"]

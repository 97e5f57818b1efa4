"""Vision-Zero: vision-language models that improve by playing "Who is the spy?" against themselves."""

import logging

__version__ = "0.1.0"

# On CPUs with bfloat16 instructions it misses a kernel that is not used (`rollout.lora.four_bits`), at every import.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

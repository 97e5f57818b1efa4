"""Libraries do less of what short runs never look at, in every process that imports this.

The workers of pytest and the fork server do. Started anew, a program has the libraries as they are.

* transformers writes out every configuration that it loads, for a message of its log that is not shown: a sixth of the
  time of a test that trains one step.
* accelerate reads the metadata of a package anew whenever it asks whether it is there, several times in every step.
"""

from functools import cache

from accelerate.utils import imports
from transformers import GenerationConfig, PretrainedConfig

for _config in (GenerationConfig, PretrainedConfig):
    _config.__repr__ = object.__repr__
imports._is_package_available = cache(imports._is_package_available)

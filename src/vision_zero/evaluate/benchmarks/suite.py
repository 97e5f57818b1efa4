"""The paper's benchmarks: their names in VLMEvalKit, how each is scored there, and the paper's values (`suite.yaml`).

The paper's values come from another environment: a reference to look at, not something to subtract from.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vision_zero.config.game import beside

PAPER_MODELS = ("start", "clevr", "chart", "real_world")
"""The paper's models, in the order of its values: the start, and trained on CLEVR, charts, real-world pictures."""


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. `kit_name`, `kit_class`: the data set and its class in VLMEvalKit.

    `scoring`: its reader in `vlmevalkit_reader.py`. `needs_judge`: a language model reads the answers.
    `headline`: the entry of VLMEvalKit's metrics that is the mean over the questions ("": none is), times
    `headline_scale`; the mean of what was read by question must be the same. `paper`: per cent, of PAPER_MODELS. A task
    of lmms-eval has a name alone.
    """

    kit_name: str
    kit_class: str = ""
    scoring: str = ""
    label: str = ""
    needs_judge: bool = False
    headline: str = ""
    headline_scale: float = 1.0
    note: str = ""
    paper: Sequence[float] = ()


_SUITE: dict[str, dict[str, Any]] = beside(__file__)["benchmarks"]
BENCHMARKS = tuple(Benchmark(name, **{"label": name, **fields}) for name, fields in _SUITE.items())
BY_NAME = {one.kit_name: one for one in BENCHMARKS}
WITHOUT_JUDGE = tuple(one.kit_name for one in BENCHMARKS if one.paper and not one.needs_judge)
PAPER = tuple(one.kit_name for one in BENCHMARKS if one.paper)
GROUPS = {"paper": PAPER, "no-judge": WITHOUT_JUDGE}  # names that stand for several benchmarks


def own_choice_set(name: str) -> Benchmark:
    """A multiple-choice set of the user's: a file NAME.tsv in VLMEvalKit's data folder."""
    return Benchmark(name, "CustomMCQDataset", "choice", name, headline="split=none|Overall")


def find_benchmarks(names: Sequence[str], own: Sequence[str] = ()) -> list[Benchmark]:
    """Benchmarks by name or group, each once, in order; `own` are sets of the user's. Raises ValueError for others."""
    found: dict[str, Benchmark] = {}
    for name in (one for asked in names for one in GROUPS.get(asked, (asked,))):
        if name in BY_NAME:
            found[name] = BY_NAME[name]
        elif name in own:
            found[name] = own_choice_set(name)
        else:
            raise ValueError(
                f"--benchmarks {name}: unknown; give names of VLMEvalKit ({', '.join(BY_NAME)}), the groups "
                f"{' and '.join(GROUPS)}, or NAME for a file NAME.tsv in --data_dir"
            )
    return list(found.values())


def judge_summary(benchmarks: Sequence[Benchmark]) -> str:
    judged = [one.kit_name for one in benchmarks if one.needs_judge]
    free = [one.kit_name for one in benchmarks if not one.needs_judge]
    return f"need a judge: {', '.join(judged) or 'none'}; scored without one: {', '.join(free) or 'none'}"

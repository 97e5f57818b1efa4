"""The paper's benchmarks: their names in VLMEvalKit, how each is scored there, and the paper's values.

VLMEvalKit 0.2rc1 (`ms-vlmeval` 0.0.20). The paper's values are Qwen2.5-VL-7B's, before training and after training on
CLEVR scenes, charts and real-world pictures (arXiv 2509.25541). They come from another environment: a reference to
look at, not something to subtract from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Scoring = Literal[
    "choice", "yes_no", "vqa", "ocrbench", "crpe", "mathvista", "mathvision", "mathverse", "judged_choice", "correct",
    "score",
]  # fmt: skip
"""Place of a question's score in VLMEvalKit's files; `reader.py` has one reader for each."""


@dataclass(frozen=True)
class PaperValues:
    """Per cent: the start model, and trained on CLEVR, on charts, on real-world pictures."""

    start: float
    clevr: float
    chart: float
    real_world: float

    def __str__(self) -> str:
        return f"{self.start:.1f} → {self.clevr:.1f} / {self.chart:.1f} / {self.real_world:.1f}"


@dataclass(frozen=True)
class Benchmark:
    """One benchmark. `kit_name`, `kit_class`: the data set and its class in VLMEvalKit.

    `needs_judge`: a language model reads the answers. `headline`: the entry of VLMEvalKit's metrics that is the mean
    over the questions ("": none is), times `headline_scale`; the mean of what was read by question must be the same.
    """

    kit_name: str
    kit_class: str
    scoring: Scoring
    label: str
    group: str
    needs_judge: bool = False
    headline: str = ""
    headline_scale: float = 1.0
    note: str = ""
    paper: PaperValues | None = None


def _choice(kit_name: str, group: str, paper: PaperValues, label: str = "", **more: Any) -> Benchmark:
    usual: dict[str, Any] = {"kit_class": "ImageMCQDataset", "headline": "split=none|Overall"}
    return Benchmark(kit_name, scoring="choice", label=label or kit_name, group=group, paper=paper, **(usual | more))


def _vqa(kit_name: str, label: str, paper: PaperValues) -> Benchmark:
    return Benchmark(
        kit_name, "ImageVQADataset", "vqa", label, CHARTS, headline="Overall", headline_scale=100.0, paper=paper
    )


REASONING, CHARTS, VISION, MORE = "Reasoning and mathematics", "Charts and text", "Vision", "Not in the paper"

BENCHMARKS: tuple[Benchmark, ...] = (
    Benchmark(
        "MathVista_MINI", "MathVista", "mathvista", "MathVista", REASONING, True,
        "Task&Skill=Overall|acc", 100.0, paper=PaperValues(68.2, 72.2, 72.4, 73.1),
    ),
    Benchmark(
        "MathVision", "MathVision", "mathvision", "MathVision", REASONING, True,
        "Subject=Overall|acc", 100.0, paper=PaperValues(25.4, 28.4, 28.9, 28.5),
    ),
    Benchmark(
        "WeMath", "WeMath", "judged_choice", "WeMath", REASONING, True,
        note="per question; VLMEvalKit's own score combines a problem's steps",
        paper=PaperValues(36.1, 39.2, 38.8, 40.1),
    ),
    Benchmark(
        "MathVerse_MINI", "MathVerse", "mathverse", "MathVerse", REASONING, True,
        note="VLMEvalKit reports it by kind of problem too", paper=PaperValues(49.0, 53.2, 52.5, 52.1),
    ),
    Benchmark(
        "LogicVista", "LogicVista", "judged_choice", "LogicVista", REASONING, True,
        paper=PaperValues(47.2, 49.8, 51.2, 50.8),
    ),
    Benchmark(
        "DynaMath", "Dynamath", "correct", "DynaMath", REASONING, True, "Setting=Average|Overall",
        note="mean over all variants; the paper's 20.9 looks like a worst-case figure",
        paper=PaperValues(20.9, 22.9, 22.1, 22.5),
    ),
    _choice("AI2D_TEST", CHARTS, PaperValues(84.7, 84.5, 85.8, 84.8), "AI2D"),
    _vqa("ChartQA_TEST", "ChartQA", PaperValues(86.1, 86.3, 87.2, 86.3)),
    _vqa("TextVQA_VAL", "TextVQA", PaperValues(85.5, 85.3, 86.4, 85.4)),
    _vqa("DocVQA_VAL", "DocVQA", PaperValues(94.8, 94.9, 95.9, 95.2)),
    _vqa("InfoVQA_VAL", "InfoVQA", PaperValues(82.3, 82.5, 86.5, 82.3)),
    Benchmark(
        "OCRBench", "OCRBench", "ocrbench", "OCRBench", CHARTS, headline="Final Score Norm", headline_scale=100.0,
        paper=PaperValues(88.3, 88.1, 89.0, 88.5),
    ),
    _choice("SEEDBench2_Plus", CHARTS, PaperValues(70.4, 69.5, 70.9, 69.8), "SEEDBench2+"),
    _choice("RealWorldQA", VISION, PaperValues(68.1, 68.5, 68.2, 68.5)),
    _choice("MMVP", VISION, PaperValues(76.8, 79.2, 77.9, 79.5), headline="Average"),
    _choice("MMStar", VISION, PaperValues(64.6, 65.2, 64.7, 65.8)),
    _choice("BLINK", VISION, PaperValues(55.2, 57.2, 56.1, 57.5)),
    _choice("MUIRBench", VISION, PaperValues(58.2, 59.4, 58.6, 59.8), "MuirBench", kit_class="MUIRDataset"),
    Benchmark(
        "CRPE_RELATION", "CRPE", "crpe", "CRPE", VISION, headline="total",
        note="a question counts if it is right in all four orders of its options",
        paper=PaperValues(76.4, 76.9, 76.2, 77.0),
    ),
    Benchmark(
        "MMMU_DEV_VAL", "MMMUDataset", "choice", "MMMU", MORE, note="dev and val together; VLMEvalKit reports each"
    ),
    Benchmark(
        "HallusionBench", "ImageYORNDataset", "yes_no", "HallusionBench", MORE,
        headline="split=Overall|aAcc", headline_scale=100.0,
    ),
    Benchmark("CharXiv_reasoning_val", "CharXiv", "score", "CharXiv (reasoning)", MORE, True, "Overall"),
)  # fmt: skip

BY_NAME = {one.kit_name: one for one in BENCHMARKS}
WITHOUT_JUDGE = tuple(one.kit_name for one in BENCHMARKS if one.paper and not one.needs_judge)
PAPER = tuple(one.kit_name for one in BENCHMARKS if one.paper)
GROUPS = {"paper": PAPER, "no-judge": WITHOUT_JUDGE}
"""Names that stand for several benchmarks."""


def own_choice_set(name: str) -> Benchmark:
    """A multiple-choice set of the user's: a file NAME.tsv in VLMEvalKit's data folder."""
    return Benchmark(name, "CustomMCQDataset", "choice", name, MORE, headline="split=none|Overall")


def find_benchmarks(names: Sequence[str], own: Sequence[str] = ()) -> list[Benchmark]:
    """The benchmarks of `names` (or groups of them), each once, in order; `own` are sets of the user's.

    Raises ValueError for a name that is none of these.
    """
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
    """One line on which benchmarks need a judge."""
    judged = [one.kit_name for one in benchmarks if one.needs_judge]
    free = [one.kit_name for one in benchmarks if not one.needs_judge]
    return f"need a judge: {', '.join(judged) or 'none'}; scored without one: {', '.join(free) or 'none'}"

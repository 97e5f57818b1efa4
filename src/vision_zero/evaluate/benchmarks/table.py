"""The table of benchmark results, as Markdown, and its place in a file between two markers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vision_zero.config.game import beside
from vision_zero.evaluate.benchmarks.suite import BENCHMARKS, BY_NAME
from vision_zero.run_folder import writing_for

START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"
TEXTS: dict[str, str] = beside(__file__)
NONE_YET, PAPER_NOTE = TEXTS["none_yet"], TEXTS["paper_note"]


def fill_table(file: Path, result: Path) -> None:
    """Write the table of `result` between the markers of `file`; without a result, the paper's values alone.

    Raises ValueError for a file that is no text or lacks the two markers, or a result that is damaged.
    """
    try:
        text = file.read_text("utf-8")
    except OSError as error:
        raise ValueError(f"--fill {file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"--fill {file}: is not a UTF-8 text ({error})") from error
    if text.count(START) != 1 or text.count(END) != 1 or text.index(END) < text.index(START):
        raise ValueError(f"--fill {file}: needs one line {START} and after it one line {END}")
    content = None
    if result.is_file():
        try:
            content = json.loads(result.read_text("utf-8"))
            new = results_table(content)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{result}: not a result of this command ({error!r})") from error
    else:
        new = table_without_results()
    before, rest = text.split(START)
    _, after = rest.split(END)
    with writing_for(file, "--fill"):
        file.write_text(f"{before}{START}\n{new}\n{END}{after}", "utf-8")
    print(f"{file}: " + (f"filled from {result}" if content else f"no results yet ({result} is not there)"))


def table_without_results() -> str:
    """The Markdown table while there are no results: what each benchmark needs, and the paper's values."""
    rows = [
        f"| {one.label} | `{one.kit_name}` | {'yes' if one.needs_judge else 'no'} | {small_print(one.paper)} |"
        for one in BENCHMARKS
        if one.paper
    ]
    return "\n".join([NONE_YET, "", TEXTS["head_without_results"], *rows, "", PAPER_NOTE])


def small_print(paper: Sequence[float]) -> str:
    return "<sub>{:.1f} → {:.1f} / {:.1f} / {:.1f}</sub>".format(*paper) if paper else ""


def results_table(result: Mapping[str, Any]) -> str:
    """The Markdown table of a result, with a line per benchmark and model, scored or not.

    A line has the base, the model, the paired difference with its 95% interval and the paper's values.
    """
    rows = [
        _row(name, model, found, result)
        for name, found in result["benchmarks"].items()
        for model in result["models"] or [result["base"]]
    ]
    settings = result["settings"][result["base"]]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    first = ", the first " + str(settings["limit"]) + " questions of each" if settings.get("limit") else ""
    notes = [f"Base: `{result['base']}`. In per cent, questions paired, greedy answers{first}; {versions}."]
    judges = [found["judge"] for found in result["benchmarks"].values() if found["judge"]]
    notes += [f"Judge: {judge}." for judge in sorted({f"{judge['model']} ({judge['url']})" for judge in judges})]
    return "\n".join([TEXTS["head"], *rows, "", *notes, "", PAPER_NOTE])


def _row(name: str, model: str, found: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    known = BY_NAME.get(name) if result["tool"] == "vlmevalkit" else None
    label, shown = known.label if known else name.replace("|", "\\|"), model.replace("|", "\\|")
    paper = small_print(known.paper) if known else ""
    compared = found["differences"].get(model)
    if compared is not None:
        base, own = (_percent(compared[part]["value"]) for part in ("base", "model"))
        gain, low, high = (_percent(compared["difference"][part], sign=True) for part in ("value", "low", "high"))
        counts = f"{compared['better']} / {compared['worse']}"
        return (
            f"| {label} | `{shown}` | {compared['questions']} | {base} | {own} | {gain} ({low} to {high}) | {counts} "
            f"| {paper} |"
        )
    scores = (found["scores"].get(one) for one in (result["base"], model))
    base, own = ("not scored" if score is None else _percent(score["mean"]) for score in scores)
    number = next((str(score["questions"]) for score in found["scores"].values()), "")
    return f"| {label} | `{shown}` | {number} | {base} | {own if model != result['base'] else ''} | | | {paper} |"


def _percent(share: float | None, *, sign: bool = False) -> str:
    if share is None:
        return "?"
    value = round(100 * share, 1) + 0.0  # no -0.0
    return f"{value:+.1f}" if sign else f"{value:.1f}"

"""Reader of VLMEvalKit's work folder: every question's score, its own metrics, and what failed, as JSON.

Run by VLMEvalKit's own Python, which has what reads these files; imports nothing of this repository. Where VLMEvalKit
keeps only a sum, a question's score comes from VLMEvalKit's own functions.

    python run_scripts/vlmevalkit_reader.py WORK_DIR/MODEL '[{"name": "MMStar", "scoring": "choice"}]' JUDGE
"""

import ast
import json
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

Reader = Callable[[str, str], dict[str, float]]
"""(STEM of the result files, the judge's name) -> a score per question."""


def main() -> None:
    folder, asked, judge = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
    sys.stdout, answer = sys.stderr, sys.stdout  # VLMEvalKit prints while it is imported
    from vlmeval.smp import collect_run_benchmark_report

    rows = {row["benchmark"]: row for row in collect_run_benchmark_report(folder)}
    found = {}
    for one in asked:
        stem = str(folder / f"{folder.name}_{one['name']}")
        row = rows.get(one["name"], {})
        found[one["name"]] = {
            "failed": row.get("infer_failed"),
            "total": row.get("infer_total"),
            "judge_failed": row.get("judge_failed"),
            "skip_reason": row.get("skip_reason"),
            "error": row.get("eval_error"),
        }
        if Path(f"{stem}.xlsx").is_file() and not row.get("eval_error") and not row.get("skip_reason"):
            try:
                found[one["name"]]["questions"] = READERS[one["scoring"]](stem, judge)
            except Exception as error:  # reported as this benchmark's failure, beside the others
                found[one["name"]]["error"] = f"its files cannot be read: {type(error).__name__}: {error}"
    json.dump(found, answer, default=float)


def column(suffix: str, name: str, stem: str, judge: str) -> dict[str, float]:
    """The column `name` of STEM + suffix, by the question's index. The suffix may hold {judge}."""
    from vlmeval.smp import load

    table = load(stem + suffix.format(judge=judge))
    return {str(index): float(value) for index, value in zip(table["index"], table[name], strict=True)}


def vqa(stem: str, judge: str) -> dict[str, float]:
    from vlmeval.dataset.utils.vqa_eval import hit_calculate
    from vlmeval.smp import load

    table = load(f"{stem}_results.xlsx")
    matches = [{"match": ast.literal_eval(str(match))} for match in table["eval_match"]]
    dataset = Path(stem).name.removeprefix(f"{Path(stem).parent.name}_")
    scores = hit_calculate(matches, dataset)
    return {str(index): float(score) for index, score in zip(table["index"], scores, strict=True)}


def ocrbench(stem: str, judge: str) -> dict[str, float]:
    """VLMEvalKit sums this benchmark without a score per question: 1 if one of the answers stands in the completion."""
    from vlmeval.smp import load

    scores = {}
    for row in load(f"{stem}.xlsx").to_dict("records"):
        formula = row["category"] == "Handwritten Mathematical Expression Recognition"

        def plain(text: Any, formula: bool = formula) -> str:
            one_line = str(text).strip().replace("\n", " ")
            return one_line.replace(" ", "") if formula else one_line.lower().strip()

        answers = ast.literal_eval(row["answer"])
        scores[str(row["index"])] = float(any(plain(answer) in plain(row["prediction"]) for answer in answers))
    return scores


def crpe(stem: str, judge: str) -> dict[str, float]:
    """A question is four rows, with its options in four orders; it counts if all four are right."""
    from vlmeval.dataset.utils.crpe import is_correct
    from vlmeval.smp import load

    rows = load(f"{stem}.xlsx").to_dict("records")
    fours = [rows[start : start + 4] for start in range(0, len(rows), 4)]
    return {
        str(four[0]["index"]): float(all(is_correct(str(row["answer"]), str(row["prediction"])) for row in four))
        for four in fours
    }


def post_check(module: str, stem: str, judge: str) -> dict[str, float]:
    """Every answer, scored by the function `post_check` of a module of VLMEvalKit."""
    from vlmeval.smp import load

    check = import_module(f"vlmeval.dataset.utils.{module}").post_check
    rows = [row for _, row in load(f"{stem}_{judge}.xlsx").iterrows()]
    return {str(row["index"]): float(bool(check(row, prefetch=False))) for row in rows}


def judged_choice(stem: str, judge: str) -> dict[str, float]:
    short = {"gpt-4-0125": "gpt4", "gpt-4o-mini": "gpt4o-mini"}  # as VLMEvalKit shortens them in these file names
    return column("_{judge}.xlsx", "hit", stem, short.get(judge, judge))


# By `Benchmark.scoring`.
READERS: dict[str, Reader] = {
    "choice": partial(column, "_{judge}_result.xlsx", "hit"),
    "yes_no": partial(column, "_auxmatch.xlsx", "score"),
    "vqa": vqa,
    "ocrbench": ocrbench,
    "crpe": crpe,
    "mathvista": partial(post_check, "mathvista"),
    "mathvision": partial(post_check, "mathv"),
    "mathverse": partial(column, "_{judge}_score.xlsx", "score"),
    "judged_choice": judged_choice,
    "correct": partial(column, "_{judge}.xlsx", "correct"),
    "score": partial(column, "_{judge}.xlsx", "score"),
}

if __name__ == "__main__":
    main()

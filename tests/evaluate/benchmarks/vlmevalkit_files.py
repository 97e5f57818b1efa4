"""Run by VLMEvalKit's Python: small prediction files for many benchmarks, scored by VLMEvalKit's own code, then read.

    python vlmevalkit_files.py FOLDER RUN_SCRIPTS

Prints {benchmark: {"metrics": what status.json would hold, "questions": what the reader reads}}. Where a judge is
needed, its verdicts are in the files already.
"""

import importlib
import json
import sys
from pathlib import Path

import pandas as pd

out, sys.stdout = sys.stdout, sys.stderr
folder = Path(sys.argv[1]) / "m"
folder.mkdir()
sys.path.insert(0, sys.argv[2])
reader = importlib.import_module("vlmevalkit_reader")
sets = importlib.import_module("vlmeval.dataset")
smp = importlib.import_module("vlmeval.smp")
flatten = importlib.import_module("vlmeval.smp.status_report").flatten_summary_metrics

JUDGE = "judge"
ROWS = {
    # right, wrong, and half right by the rule of each
    "ChartQA_TEST": [("42", "42"), ("42", "43.5"), ("42", "50"), ("yes", "no")],
    "TextVQA_VAL": [(str(["cat"] * 10), "cat"), (str(["cat"] * 2 + ["dog"] * 8), "cat"), (str(["cat"] * 10), "dog")],
    "DocVQA_VAL": [(str(["alpha"]), "alpha"), (str(["alpha"]), "alphb"), (str(["alpha"]), "omega")],
    "InfoVQA_VAL": [(str(["1 2", "12"]), "12"), (str(["12"]), "99")],
}
FOUND = {}


def save(name, rows, suffix=""):
    smp.dump(pd.DataFrame(rows), str(folder / f"m_{name}{suffix}.xlsx"))
    return str(folder / f"m_{name}.xlsx")


def score(name, kind, scoring, file, **judge):
    cls = getattr(sets, kind)
    data = object.__new__(cls)
    data.dataset_name = name
    metrics = flatten(data.evaluate(file, **judge))
    questions = reader.READERS[scoring](file.removesuffix(".xlsx"), JUDGE)
    FOUND[name] = {"metrics": metrics, "questions": questions}


for name, pairs in ROWS.items():
    rows = [{"index": n, "question": "q", "answer": a, "prediction": p} for n, (a, p) in enumerate(pairs)]
    score(name, "ImageVQADataset", "vqa", save(name, rows))

formula = "Handwritten Mathematical Expression Recognition"
rows = [
    ("Scene Text-centric VQA", "['Stop']", "it says STOP"),
    ("Scene Text-centric VQA", "['Stop', 'halt']", "go"),
    (formula, "['x + 1']", "$x+1$"),
    (formula, "['X']", "x"),
    ("Doc-oriented VQA", "['no', 'two\\nlines']", "two lines"),
]
rows = [{"index": n, "category": c, "answer": a, "prediction": p} for n, (c, a, p) in enumerate(rows)]
score("OCRBench", "OCRBench", "ocrbench", save("OCRBench", rows))
FOUND["OCRBench"]["metrics"]["Final Score Norm"] *= 1000 / len(rows)  # it divides by the 1,000 questions that it has

fours = [("A. dog", ["A", "A", "A. dog", "A"]), ("B. cat", ["B", "A", "B", "B"])]
rows = [
    {"index": 4 * n + k, "category": "object", "answer": answer, "prediction": prediction}
    for n, (answer, predictions) in enumerate(fours)
    for k, prediction in enumerate(predictions)
]
score("CRPE_RELATION", "CRPE", "crpe", save("CRPE_RELATION", rows))

yes_no = [("Yes", "Yes, it is"), ("No", "yes"), ("No", "No."), ("Yes", "maybe")]
rows = [
    {"index": f"VD_chart_0_{n}_0_{n}", "category": "VD", "l2-category": "chart", "set_id": n, "figure_id": 0,
     "question_id": n, "question": "q", "answer": a, "prediction": p}
    for n, (a, p) in enumerate(yes_no)
]  # fmt: skip
score("HallusionBench", "ImageYORNDataset", "yes_no", save("HallusionBench", rows), model="exact_matching")

vista = [
    ("multi_choice", "text", "['one', 'two']", "two", "B", "B"),
    ("multi_choice", "text", "['one', 'two']", "two", "B", "A"),
    ("free_form", "integer", None, "7", None, "7"),
    ("free_form", "float", None, "1.5", None, "1.6"),
]
rows = [
    {"index": n, "task": "t", "skills": "['s']", "question": "q", "question_type": kind, "answer_type": form,
     "choices": choices, "answer": answer, "answer_option": letter, "prediction": "p", "res": res, "log": "judged"}
    for n, (kind, form, choices, answer, letter, res) in enumerate(vista)
]  # fmt: skip
save("MathVista_MINI", rows, f"_{JUDGE}")
score("MathVista_MINI", "MathVista", "mathvista", save("MathVista_MINI", rows), model=JUDGE)

vision = [("[]", "12", "12"), ("[]", "12", "13"), ("['1', '2']", "B", "B"), ("['1', '2']", "B", "A")]
rows = [
    {"index": n, "category": "c", "choices": choices, "answer": a, "prediction": "p", "res": r, "log": "judged"}
    for n, (choices, a, r) in enumerate(vision)
]
save("MathVision", rows, f"_{JUDGE}")
score("MathVision", "MathVision", "mathvision", save("MathVision", rows), model=JUDGE)

rows = [
    {"index": n, "qid": n - n % 2, "varid": n % 2 + 1, "subject": "s", "knowledge_level": "l", "prediction": "p",
     "parse": True, "extracted": "x", "correct": bool(right)}
    for n, right in enumerate((1, 1, 1, 0))
]  # fmt: skip
save("DynaMath", rows, f"_{JUDGE}")
score("DynaMath", "Dynamath", "correct", save("DynaMath", rows), model=JUDGE)

json.dump(FOUND, out, default=float)

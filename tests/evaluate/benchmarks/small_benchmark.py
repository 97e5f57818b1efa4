"""A small multiple-choice benchmark over drawn scenes, for VLMEvalKit and lmms-eval, and tiny models taught on it.

What the tiny model is taught is what the tools really asked: requests that its server kept, images included.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from tiny_vlm.files import save_base, save_model
from tiny_vlm.wiring import new_model
from vision_zero.data.drawn_scenes import COLOURS, SHAPES, draw, sample_scene
from vision_zero.evaluate.benchmarks.server.model import ChatModel, ChatRequest, read_request
from vision_zero.models import load_model, load_processor

LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """`options` in the order of LETTERS; `answer` is the letter of the right one."""

    image: Image.Image
    text: str
    options: tuple[str, ...]
    answer: str


def questions(n: int, seed: int = 0) -> list[Question]:
    """What shape has a colour of the scene? Every letter is right equally often."""
    rng = random.Random(f"vision-zero/small-benchmark/{seed}")
    made = []
    for number in range(n):
        scene = sample_scene(rng)
        shown = rng.choice(scene.objects)
        wrong = [shape for shape in (*SHAPES, "nothing") if shape != shown.shape]
        rng.shuffle(wrong)
        letter = LETTERS[number % len(LETTERS)]
        wrong.insert(LETTERS.index(letter), shown.shape)
        assert shown.colour in COLOURS
        made.append(Question(draw(scene), f"What shape is {shown.colour}?", tuple(wrong), letter))
    return made


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_tsv(folder: Path, name: str, asked: Sequence[Question]) -> Path:
    """NAME.tsv as VLMEvalKit's data folder holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.tsv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writerow(["index", "image", "question", *LETTERS, "answer"])
        for index, one in enumerate(asked):
            picture = base64.b64encode(png(one.image)).decode()
            writer.writerow([index, picture, one.text, *one.options, one.answer])
    return path


TASK = """\
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_visual: !function utils.images
doc_to_text: !function utils.prompt
doc_to_target: answer
process_results: !function utils.score
generation_kwargs:
  max_new_tokens: 16
  temperature: 0
  do_sample: false
metric_list:
  - metric: right
    aggregation: mean
    higher_is_better: true
"""
UTILS = """\
import base64
import io

from PIL import Image


def images(doc):
    return [Image.open(io.BytesIO(base64.b64decode(doc["image"]))).convert("RGB")]


def prompt(doc, lmms_eval_specific_kwargs=None):
    options = "\\n".join(f"{letter}. {doc[letter]}" for letter in "ABCD")
    return f"{doc['question']}\\n{options}\\nAnswer with the letter."


def score(doc, results):
    return {"right": float(results[0].strip() == doc["answer"])}
"""


def write_lmms_task(folder: Path, name: str, asked: Sequence[Question]) -> Path:
    """A folder for lmms-eval's --include_path with one task and its data."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "questions.json"
    rows = [
        {
            "image": base64.b64encode(png(one.image)).decode(),
            "question": one.text,
            **dict(zip(LETTERS, one.options, strict=True)),
            "answer": one.answer,
        }
        for one in asked
    ]
    data.write_text("\n".join(map(json.dumps, rows)) + "\n", "utf-8")
    (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=data), "utf-8")
    (folder / "utils.py").write_text(UTILS, "utf-8")
    return folder


def untrained(folder: Path, seed: int = 0) -> Path:
    """The tiny model with random weights."""
    save_base(folder)
    save_model(new_model(folder, seed), folder)
    return folder


def kept_requests(file: Path) -> list[ChatRequest]:
    """What a server kept, in a fixed order: requests come in any."""
    lines = sorted(file.read_text("utf-8").splitlines())
    return [read_request(json.loads(line)["request"], 16) for line in lines]


def answer_of(request: ChatRequest, asked: Sequence[Question]) -> str:
    """The letter that is right: the question whose text and options stand in the request, and whose image is it."""
    text = "".join(part["text"] for part in request.messages[-1]["content"] if part["type"] == "text")
    alike = [
        one
        for one in asked
        if one.text in text
        and all(f"{letter}. {option}" in text for letter, option in zip(LETTERS, one.options, strict=True))
    ]
    return min(alike, key=lambda one: difference(one.image, request.images[0])).answer


def difference(one: Image.Image, other: Image.Image) -> float:
    """Mean absolute difference of two pictures: the one that was sent was a JPEG."""
    first, second = (
        torch.frombuffer(bytearray(image.convert("L").resize((28, 28)).tobytes()), dtype=torch.uint8).float()
        for image in (one, other)
    )
    return (first - second).abs().mean().item()


def teach(
    start: Path, out: Path, requests: Sequence[ChatRequest], answers: Sequence[str], *, max_steps: int = 800,
    max_pixels: int | None = None, system_prompt: str | None = None,
) -> Path:  # fmt: skip
    """`start` over-fitted on `requests` with the completions `\\boxed{answer}`, saved in `out`: until it answers all of
    them right, or for `max_steps`."""
    model: Any = load_model(start, dtype="float32")
    processor = load_processor(str(start), None, max_pixels)
    chat = ChatModel(model, processor, post_process=True, system_prompt=system_prompt)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    rng = random.Random("vision-zero/teach")
    rows = list(zip(requests, answers, strict=True))
    for step in range(max_steps):
        model.train()
        loss = reply_loss(model, chat, rng.sample(rows, min(8, len(rows))))
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1.0, (step + 1) / 20)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step >= 150 and step % 25 == 0:
            model.eval()
            wrong = sum(one.text != answer for one, answer in zip(chat.answer(requests), answers, strict=True))
            print(f"step {step}: {wrong} of {len(rows)} wrong", flush=True)
            if not wrong:
                break
    model.eval()
    out.mkdir(parents=True)
    for path in start.iterdir():
        if path.suffix in (".json", ".txt"):
            (out / path.name).write_bytes(path.read_bytes())
    save_model(model, out)
    return out


def reply_loss(model: Any, chat: ChatModel, batch: Sequence[tuple[ChatRequest, str]]) -> torch.Tensor:
    """Mean cross-entropy of the completions' tokens. Padded on the left, as the server pads."""
    texts = [f"{chat.prompt(request)}\\boxed{{{answer}}}<|im_end|>" for request, answer in batch]
    inputs = chat.processor(
        text=texts, images=[list(request.images) for request, _ in batch], padding=True, return_tensors="pt"
    )
    labels = torch.full_like(inputs["input_ids"], -100)
    for number, (_, answer) in enumerate(batch):
        completion = chat.processor.tokenizer(f"\\boxed{{{answer}}}<|im_end|>")["input_ids"]
        labels[number, -len(completion) :] = torch.tensor(completion)
    return model(**inputs, labels=labels).loss

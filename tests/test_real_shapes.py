"""Real vocabularies and widths: models of 7B and 8B cut to 2 + 2 layers, by the LoRA script in bfloat16 on a CPU.

Two photographs of 12 megapixels, the script's own options, 2 games, 16 new tokens: both stages. The process's largest
resident memory is printed beside what `vision_zero.plan` says of the weights, with `-s`.
"""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from PIL import Image
from transformers.initialization import no_init_weights

from tests.process_helpers import PHOTOS
from tests.test_scripts import ROOT, bash
from tests.tiny_families import QWEN_TEMPLATE, QWEN_TOKENS
from tests.trainer_helpers import BENCH_MODEL
from vision_zero.run_folder import read_json_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400)]
SIZE = (4000, 3000)


def qwen2_5_vl(config: dict[str, Any]) -> Any:
    config |= {"num_hidden_layers": 2}
    config["vision_config"] |= {"depth": 2, "fullatt_block_indexes": [1]}
    return hf.Qwen2_5_VLForConditionalGeneration, hf.Qwen2_5_VLProcessor, hf.Qwen2VLVideoProcessor, 14


def qwen3_vl(config: dict[str, Any]) -> Any:
    config["text_config"] |= {"num_hidden_layers": 2}
    config["vision_config"] |= {"depth": 2, "deepstack_visual_indexes": [0, 1]}
    return hf.Qwen3VLForConditionalGeneration, hf.Qwen3VLProcessor, hf.Qwen3VLVideoProcessor, 16


def with_vocabulary(size: int, folder: Path) -> Any:
    """The tiny tokenizer, whose other ids have a word each that no text is split into."""
    hf.AutoTokenizer.from_pretrained(BENCH_MODEL, chat_template=QWEN_TEMPLATE).save_pretrained(folder)
    file = folder / "tokenizer.json"
    known = json.loads(file.read_text("utf-8"))
    words = known["model"]["vocab"]
    first = 1 + max(*words.values(), *(token["id"] for token in known["added_tokens"]))
    words.update({f" word{number}": number for number in range(first, size)})
    file.write_text(json.dumps(known), "utf-8")
    return hf.AutoTokenizer.from_pretrained(folder)


def save_cut(name: str, cut: Callable[[dict[str, Any]], Any], folder: Path) -> int:
    """A published configuration with 2 + 2 layers and the tiny tokenizer; how many parameters it has."""
    published = json.loads((ROOT / "src/vision_zero/plan/models" / f"{name}.json").read_text("utf-8"))
    model_class, processor_class, videos, patch = cut(published)
    config = model_class.config_class.from_dict({**published, **QWEN_TOKENS})
    torch.manual_seed(0)
    with no_init_weights():
        model = model_class._from_config(config, dtype=torch.bfloat16)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.02)
            else:
                weight.fill_(1.0)
    model.generation_config.update(eos_token_id=2, pad_token_id=0)
    model.save_pretrained(folder)
    tokenizer = with_vocabulary(model.config.get_text_config().vocab_size, folder)
    images = hf.Qwen2VLImageProcessor(patch_size=patch)
    processor_class(images, tokenizer, videos(), chat_template=QWEN_TEMPLATE).save_pretrained(folder)
    return sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize(("name", "cut"), [("qwen2.5-vl-7b", qwen2_5_vl), ("qwen3-vl-8b", qwen3_vl)])
def test_both_stages_run(name: str, cut: Callable[[dict[str, Any]], Any], tmp_path: Path) -> None:
    photos, model = tmp_path / "photos", tmp_path / "model"
    photos.mkdir()
    for file in ("cat.jpg", "koala.jpg"):
        Image.open(PHOTOS / file).convert("RGB").resize(SIZE).save(photos / file)
    n_parameters = save_cut(name, cut, model)
    options = {
        "iterations": 2,
        "schedule": "cycle",
        "cycle_decision": 1,
        "cycle_clue": 1,
        "games_per_iteration": 2,
        "max_clue_tokens": 16,
        "max_vote_tokens": 16,
        "holdout": 0,
        "arena_every": 0,
    }
    words = [word for option, value in options.items() for word in (f"--{option}", str(value))]
    own = {"IMAGES_DIR": str(photos), "MODEL": str(model), "NUM_GPUS": "0", "REPORT_TO": "none"}
    done = bash("run_lora_1gpu.sh", *words, **own, RUN_NAME="run", OUTPUT_BASE_DIR=str(tmp_path))
    print(done.stderr[-6000:])
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in read_json_lines(tmp_path / "run" / "metrics.jsonl") if "stage/is_clue" in line]
    assert [line["stage/is_clue"] for line in lines] == [0, 1]
    assert all(line["length/vote"] <= 16 for line in lines)
    (tokens,) = re.findall(r"(\d+) of the largest", done.stderr)
    assert int(tokens) <= 512
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    (planned,) = re.findall(r"optimizer and reference ([\d.]+) GiB", done.stderr)
    print(f"{name}: {n_parameters / 1e9:.2f} B parameters, planned {planned} GiB, resident at most {most:.1f} GiB")
    assert float(planned) < most, "it has activations too, and what a process needs anyhow"

"""Every shipped preset is parsed by the real parser and holds the values of its source."""

import re
from pathlib import Path

import pytest
import yaml

from vision_zero.config.game import GameConfig
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.train import parse

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted(set(ROOT.glob("configs/*.yaml")) - {ROOT / "configs" / "fsdp2.yaml"})  # that is of fsdp_config

# arXiv 2509.25541, table of hyperparameters and method section; the same in both versions.
PAPER = {
    "civilians": 4,
    "rounds": 2,
    "voter": "observer",
    "iterations": 100,
    "games_per_iteration": 128,
    "num_generations": 8,
    "schedule": "iterative",
    "reward_beta": 0.1,
    "reward_lambda": 0.1,
    "na_reward": -0.5,
    "format_weight": 0.0,
    "rae_alpha": 0.95,
    "rae_subtract": "after",
    "rae_stages": "clue",
    "rho": 0.95,
    "acc_up": 0.9,
    "err_up": 0.4,
    "na_up": 0.5,
    "na_down": 0.1,
    "k_min": 5,
    "patience": 20,
    "debias": False,
    "max_clue_tokens": 512,
    "max_vote_tokens": 512,
    "learning_rate": 1e-5,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "beta": 0.04,
    "gradient_checkpointing": True,
}
# The public code at commit fa3c01c, where it differs from its paper.
PUBLIC_CODE = {
    "civilians": 3,
    "spy_view": "edited",
    "iterations": 280,
    "games_per_iteration": 64,
    "schedule": "cycle",
    "rae_alpha": 0.9,
    "rae_update": "game",
    "rae_stages": "always",
    "temperature": 0.8,
    "top_k": 50,
    "max_clue_tokens": 1024,
    "max_vote_tokens": 1024,
    "min_clue_tokens": 20,
    "min_vote_tokens": 100,
    "loss_type": "grpo",
    "max_grad_norm": 1.0,
    "learning_rate": 1e-5,
    "beta": 0.04,
    "num_generations": 8,
    "rounds": 2,
}


def parsed(preset: Path) -> dict[str, object]:
    arguments = ["--config", str(preset), "--output_dir", "unused", "--report_to", "none"]
    own = yaml.safe_load(preset.read_text())
    if "images" not in own:
        arguments += ["--images", "somewhere", "--model_name_or_path", "some/model"]
    game, args, model = parse(arguments)
    return {**vars(game), **vars(args), **vars(model)}


def same(value: object, wanted: object) -> bool:
    if wanted == "none":  # report_to
        return value == []
    return str(getattr(value, "value", value)) == wanted if isinstance(wanted, str) else value == wanted


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.name)
def test_every_value_of_a_preset_reaches_the_run(preset: Path) -> None:
    options = parsed(preset)
    written = yaml.safe_load(preset.read_text())
    assert {name: options[name] for name in written if not same(options[name], written[name])} == {}


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.name)
def test_every_value_of_a_preset_has_a_source(preset: Path) -> None:
    for line in preset.read_text().splitlines():
        if line and not line.startswith("#"):
            assert re.search(r"^\w+: .*\S +# \S", line), f"{preset.name}: '{line}' does not say where it is from"


@pytest.mark.parametrize(("name", "spy_view"), [("paper_v1", "edited"), ("paper_v2", "blank")])
def test_paper_presets(name: str, spy_view: str) -> None:
    options = parsed(ROOT / "configs" / f"{name}.yaml")
    wanted = {**PAPER, "spy_view": spy_view}
    assert {key: options[key] for key in wanted if not same(options[key], wanted[key])} == {}


def test_the_two_paper_presets_differ_in_the_spy_alone() -> None:
    v1, v2 = (yaml.safe_load((ROOT / "configs" / f"paper_{name}.yaml").read_text()) for name in ("v1", "v2"))
    assert {key for key in v1.keys() | v2.keys() if v1.get(key) != v2.get(key)} == {"spy_view"}


def test_public_code_preset() -> None:
    options = parsed(ROOT / "configs" / "public_code.yaml")
    assert {key: options[key] for key in PUBLIC_CODE if not same(options[key], PUBLIC_CODE[key])} == {}


def test_defaults_are_the_papers() -> None:
    defaults = {**vars(GameConfig()), **vars(IterativeSPOConfig(output_dir="unused", report_to="none"))}
    assert {key: defaults[key] for key in PAPER if not same(defaults[key], PAPER[key])} == {}


def test_all_presets_are_there() -> None:
    assert {path.name for path in PRESETS} == {"paper_v1.yaml", "paper_v2.yaml", "public_code.yaml", "quickstart.yaml"}

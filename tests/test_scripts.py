"""What a researcher runs: the scripts' commands go through the real parser, what is wrong is refused before anything
slow starts, and one script trains for real on the CPU."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from trl import ModelConfig

from tests.fork_server import folder_of_shared_python, without_packages
from tests.process_helpers import run_program
from vision_zero import run_folder
from vision_zero.config import __main__ as configuration
from vision_zero.config.game import GameConfig
from vision_zero.config.options import IterativeSPOConfig
from vision_zero.evaluate.win_rate.callback import HIGH, LOGGED, LOW, SECONDS
from vision_zero.report import summary
from vision_zero.report.__main__ import main as report

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "run_scripts"
OPTIONS = {option.name for config in (GameConfig, IterativeSPOConfig, ModelConfig) for option in fields(config)}
BENCH_MODEL = ROOT / "tests" / "models" / "bench_model"
PHOTOS, DRAWN = ROOT / "data" / "photos", ROOT / "data" / "drawn"

ALL_SCRIPTS = [ROOT / "setup.sh", *sorted(SCRIPTS.glob("*.sh"))]
SOURCED = {"launch.sh", "training.sh"}
READ = {
    name
    for script in ALL_SCRIPTS
    for name in re.findall(r'^(?:export )?([A-Z_]+)="\$\{\1:-', script.read_text(), re.MULTILINE)
} | {"CUDA_VISIBLE_DEVICES"}
"""Variables that the scripts read."""
FORMER = {
    name: flag or name.lower()
    for name, flag in re.findall(
        r"([A-Z_]+)(?::([a-z_]+))?", (SCRIPTS / "training.sh").read_text().split('FORMER="')[1].split('"')[0]
    )
}
"""Variables that the training scripts read until they became flags."""

PARSE = """
import json, sys
from vision_zero.train import parse
for arguments in json.loads(sys.argv[1]):
    try:
        options = {name: value for part in parse(arguments) for name, value in vars(part).items()}
        print(json.dumps({name: str(value) for name, value in options.items()}))
    except (ValueError, SystemExit) as error:
        print(json.dumps({"error": str(error)}))
"""


def bash(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a script from a folder that is not the repository's, with nothing of ours in its environment.

    What a dry run asks of the programs is asked in forks.
    """
    kept = {name: value for name, value in os.environ.items() if name not in READ | {*FORMER}}
    environment = {
        **kept,
        "PATH": f"{folder_of_shared_python()}:{Path(sys.executable).parent}:{kept['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
        "PYTHONPATH": str(ROOT / "src"),
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        **variables,
    }
    return subprocess.run(
        ["bash", str(SCRIPTS / script), *arguments],
        cwd="/",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def command(script: str, *arguments: str, **variables: str) -> list[str]:
    """The command that a dry run prints, without an installation to check its options with."""
    finished = bash(script, *arguments, **{"PATH": without_packages(), **variables, "DRY_RUN": "1"})
    assert finished.returncode == 0, finished.stderr
    return shlex.split(finished.stdout)


def words(**options: object) -> list[str]:
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def flags(line: list[str]) -> list[str]:
    return line[line.index("vision_zero.train") + 1 :]


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, str]]:
    """The options that the real parser makes of each script's command, in one process of its own: DeepSpeed's options
    leave marks in the environment."""
    base = str(tmp_path_factory.mktemp("runs"))
    images = {"IMAGES_DIR": str(PHOTOS), "OUTPUT_BASE_DIR": base}
    grpo, lora = "run_grpo_vision_zero.sh", "run_lora_1gpu.sh"
    lines = {
        "grpo": command(grpo, **images, NUM_GPUS="8", RUN_NAME="first"),
        "cpu": command(grpo, **images, NUM_GPUS="0", RUN_NAME="first"),
        "lora": command(lora, **images),
        "changed": command(
            grpo,
            *words(
                civilians=3,
                games_per_iteration=16,
                updates_per_iteration=2,
                save_every=5,
                kl_clue=0.01,
                max_pixels=76800,
                na_reward=0.25,
                debias="true",
            ),
            IMAGES_DIR=f"{PHOTOS},scenes:{DRAWN}",
            OUTPUT_BASE_DIR=base,
            SCENES_DIR=str(DRAWN / "scenes"),
            MODEL=str(BENCH_MODEL),
            NUM_GPUS="0",
        ),
        "preset": command(grpo, "--config", str(ROOT / "configs" / "public_code.yaml"), **images, NUM_GPUS="0"),
        "quickstart": command("quickstart.sh", RUN_DIR=f"{base}/quickstart"),
        "quickstart changed": command("quickstart.sh", "--iterations", "7", RUN_DIR=f"{base}/quickstart"),
    }
    given = json.dumps([flags(line) for line in lines.values()])
    finished = run_program(["-c", PARSE, given], tmp_path_factory.mktemp("parsed") / "log")
    assert finished.status == 0
    answers = [json.loads(line) for line in finished.output.splitlines() if line.startswith("{")]
    return dict(zip(lines, answers, strict=True))


def expect(options: Mapping[str, str], **wanted: object) -> None:
    assert {name: options.get(name, options) for name in wanted} == {name: str(value) for name, value in wanted.items()}


@pytest.mark.parametrize("script", ALL_SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    subprocess.run([str(Path(sys.executable).parent / "shellcheck"), "-x", str(script)], cwd=ROOT, check=True)


@pytest.mark.parametrize(
    "script", [path for path in ALL_SCRIPTS if path.name not in SOURCED], ids=lambda path: path.name
)
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_is_the_header_and_nothing_is_done(script: Path, asked: str, tmp_path: Path) -> None:
    """Asked after other words too. Nothing is installed, made or started: there is no Python to do it with."""
    (tmp_path / "python").symlink_to("/bin/false")
    for arguments in ([asked], ["--iterations", "3", asked]):
        variables = {"RUN_DIR": str(tmp_path / "run"), "OUT": str(tmp_path / "run"), "VIRTUAL_ENV": str(tmp_path)}
        finished = bash(str(script), *arguments, **variables, PATH=f"{tmp_path}:{os.environ['PATH']}")
        header = script.read_text().split("\n\n")[0].splitlines()[1:]
        assert (finished.returncode, finished.stderr) == (0, "")
        assert finished.stdout.splitlines()[: len(header)] == [
            line.removeprefix("#").removeprefix(" ") for line in header
        ]
    assert [path.name for path in tmp_path.iterdir()] == ["python"]


def test_eight_gpus_with_zero3_are_one_variable_away() -> None:
    line = command("run_grpo_vision_zero.sh", IMAGES_DIR=str(PHOTOS), NUM_GPUS="8")
    assert line[:6] == ["torchrun", "--standalone", "--nproc_per_node", "8", "-m", "vision_zero.train"]
    assert line[line.index("--deepspeed") + 1] == str(ROOT / "configs" / "deepspeed" / "zero3.json")
    assert line[line.index("--dtype") + 1] == "bfloat16"


def test_cpu_runs_in_plain_python_or_over_gloo() -> None:
    one = command("run_grpo_vision_zero.sh", IMAGES_DIR=str(PHOTOS), NUM_GPUS="0")
    assert one[:3] == ["python", "-m", "vision_zero.train"]
    assert "--deepspeed" not in one
    assert one[one.index("--dtype") + 1] == "float32"
    two = command("run_grpo_vision_zero.sh", IMAGES_DIR=str(PHOTOS), NUM_GPUS="0", NUM_PROCESSES="2")
    assert two[:4] == ["torchrun", "--standalone", "--nproc_per_node", "2"]
    assert "--use_cpu" in two


def test_script_has_the_papers_values(parsed: Mapping[str, Mapping[str, str]]) -> None:
    preset = yaml.safe_load((ROOT / "configs" / "paper_v2.yaml").read_text())
    preset["spy_view"] = "auto"  # the images decide, unless a version of the paper is asked for
    options = parsed["grpo"]
    values = {name: options.get(name, options).removeprefix("SchedulerType.").lower() for name in preset}
    assert values == {name: str(value).lower() for name, value in preset.items()}
    expect(options, model_name_or_path="Qwen/Qwen2.5-VL-7B-Instruct", run_name="first", report_to=["wandb"])
    expect(options, holdout=0.1, arena_every=50)  # every run measures its win rate
    assert options["output_dir"].endswith("/first")


def test_variables_and_arguments_reach_the_options(parsed: Mapping[str, Mapping[str, str]]) -> None:
    expect(
        parsed["changed"],
        images=[str(PHOTOS), f"scenes:{DRAWN}"],
        scenes_dir=DRAWN / "scenes",
        civilians=3,
        games_per_iteration=16,
        updates_per_iteration=2,
        save_steps=10,
        kl_clue=0.01,
        kl_decision=None,
        max_pixels=76800,
        na_reward=0.25,
        debias=True,
        use_cpu=True,
        attn_implementation="sdpa",
    )


def test_a_preset_takes_the_place_of_the_scripts_options(parsed: Mapping[str, Mapping[str, str]]) -> None:
    """As flags they would win over the file."""
    expect(parsed["preset"], civilians=3, iterations=280, games_per_iteration=64, max_clue_tokens=1024, rae_alpha=0.9)
    expect(parsed["preset"], use_cpu=True, images=[str(PHOTOS)], holdout=0.0)


VARIABLES = [
    *("IMAGES_DIR", "SCENES_DIR", "MODEL", "OUTPUT_BASE_DIR", "RUN_NAME", "RESUME", "DRY_RUN", "NUM_GPUS"),
    *("NUM_PROCESSES", "NODES", "NODE_RANK", "HEAD", "DEEPSPEED", "REPORT_TO", "WANDB_PROJECT"),
]
OWN = {"IMAGES_DIR": str(PHOTOS), "NUM_GPUS": "0", "RUN_NAME": "run", "OUTPUT_BASE_DIR": "/nowhere"}


def test_every_variable_changes_the_command() -> None:
    """A variable that nothing reads would be a lie at the top of the script."""
    script = (SCRIPTS / "run_grpo_vision_zero.sh").read_text()
    variables = re.findall(r'^([A-Z_]+)="\$\{\1:-', script, re.MULTILINE)
    assert variables == VARIABLES
    usual = command("run_grpo_vision_zero.sh", **OWN)
    values = {
        "IMAGES_DIR": str(DRAWN),
        "REPORT_TO": "none",
        "SCENES_DIR": str(DRAWN),
        "MODEL": str(BENCH_MODEL),
        "NUM_GPUS": "1",
        "NUM_PROCESSES": "2",
        "DEEPSPEED": str(ROOT / "configs/deepspeed/zero2.json"),
    }
    outside = {"DRY_RUN", "WANDB_PROJECT", "RESUME"}  # not options: tested below, or read by wandb
    outside |= {"NODES", "NODE_RANK", "HEAD"}  # together: test_nodes.py
    silent = [
        name
        for name in variables
        if name not in outside and command("run_grpo_vision_zero.sh", **{**OWN, name: values.get(name, "7")}) == usual
    ]
    assert silent == []


def test_every_former_variable_is_refused_with_its_flag() -> None:
    assert len(FORMER) > 55
    assert {*FORMER.values()} <= OPTIONS
    for script in ("run_grpo_vision_zero.sh", "run_lora_1gpu.sh"):
        variables = dict.fromkeys(FORMER, "a b")
        refused = bash(script, DRY_RUN="1", **OWN, **variables)
        assert (refused.returncode, len(refused.stderr.splitlines())) == (1, 1)
        told = dict(re.findall(r"--(\w+) (a\\ b)", refused.stderr))
        assert {*told} == {*FORMER.values()}


@pytest.mark.parametrize(
    ("name", "flag"),
    [("ITERATIONS", "iterations"), ("GAMES", "games_per_iteration"), ("KL_WEIGHT", "beta"),
     ("SAVE_EVERY", "save_every"), ("LORA_TARGETS", "lora_target_modules"),
     ("MICRO_BATCH", "per_device_train_batch_size"),
     ("NUM_GENERATIONS", "num_generations"), ("ARENA_EVERY", "arena_every"), ("USE_VLLM", "use_vllm")],
)  # fmt: skip
def test_one_former_variable(name: str, flag: str) -> None:
    """Those named as a flag of the script are refused too, though no script ever read them."""
    refused = bash("run_grpo_vision_zero.sh", DRY_RUN="1", **OWN, **{name: "7"})
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.endswith(f"put it after the script's name: --{flag} 7\n")
    assert bash("run_grpo_vision_zero.sh", DRY_RUN="1", **OWN, **{name: ""}).returncode == 0  # as one that is not set


@pytest.mark.parametrize(
    ("script", "name", "meant"),
    [
        ("run_grpo_vision_zero.sh", "IMAGE_DIR", "IMAGES_DIR"),
        ("run_grpo_vision_zero.sh", "RUN_NMAE", "RUN_NAME"),
        ("run_grpo_vision_zero.sh", "num_processes", "NUM_PROCESSES"),
        ("run_grpo_vision_zero.sh", "REPORTTO", "REPORT_TO"),
        ("run_grpo_vision_zero.sh", "ITERATION", "--iterations"),
        ("run_grpo_vision_zero.sh", "GENERATION", "--num_generations"),
        ("run_lora_1gpu.sh", "DEEPSPED", "DEEPSPEED"),
        ("run_lora_1gpu.sh", "LORA_ALHPA", "--lora_alpha"),
        ("quickstart.sh", "THREAD", "THREADS"),
        ("toy_selfplay.sh", "ARENA_GAME", "--arena_games"),
        ("toy_selfplay.sh", "FINAL_GAME", "FINAL_GAMES"),
        ("make_clevr.sh", "OBJEKTS", "--objects"),
        ("make_photos.sh", "PHOTO", "PHOTOS"),
        ("make_charts.sh", "WORKER", "WORKERS"),
        ("vllm_server.sh", "GPU_MEMROY", "--gpu_memory_utilization"),
        ("vllm_server.sh", "MAX_NUM_SEQ", "--max_num_seqs"),
        ("eval_vlmevalkit.sh", "BENCHMARK", "BENCHMARKS"),
    ],
)
def test_a_misspelt_variable_is_told(script: str, name: str, meant: str, tmp_path: Path) -> None:
    own = {
        **OWN,
        "NUM_GPUS": "0",
        "RUN_DIR": str(tmp_path / "a"),
        "OUT": str(tmp_path / "b"),
        "MODEL": str(BENCH_MODEL),
    }
    if script == "toy_selfplay.sh":
        del own["MODEL"]
    warned = bash(script, DRY_RUN="1", **own, **{name: "7"}, PATH=without_packages())
    assert warned.returncode == 0
    assert f"{script}: warning: {name} is set, and nothing reads it; did you mean {meant}?\n" in (
        warned.stderr.replace("run_grpo_vision_zero.sh: warning", f"{script}: warning")
    )
    assert warned.stderr.count(f"{name} is set") == 1


def test_other_variables_are_nobodys_business() -> None:
    others = dict.fromkeys(("MODELS", "HOSTNAME", "K_MINS", "CUDA_HOME", "WANDB_MODE", "GAME", "RUNNER", "PORTS"), "7")
    told = bash("run_grpo_vision_zero.sh", DRY_RUN="1", **OWN, **others, PATH=without_packages()).stderr
    assert [line for line in told.splitlines() if "not checked" not in line] == []


@pytest.mark.parametrize(("word", "dry"), [("true", True), ("yes", True), ("1", True), ("maybe", None), ("2", None)])
def test_a_dry_run_is_no_guess(word: str, dry: bool | None) -> None:
    """DRY_RUN=true once trained."""
    finished = bash("run_grpo_vision_zero.sh", **OWN, DRY_RUN=word)
    if dry:
        assert finished.stdout.startswith("python -m vision_zero.train ")
    else:
        assert (finished.returncode, finished.stdout) == (1, "")
        assert f"DRY_RUN={word} must be 1 or 0" in finished.stderr


GPUS = "".join(f"GPU {n}: NVIDIA A100 (UUID: GPU-{n}a)\n" for n in range(4))
SLICED = (
    "GPU 0: NVIDIA A100 (UUID: GPU-0a)\n  MIG 1g.5gb Device 0: (UUID: MIG-1)\n  MIG 1g.5gb Device 1: (UUID: MIG-2)\n"
)


@pytest.mark.parametrize(
    ("visible", "shown", "count"),
    [
        (None, "", 0),
        (None, GPUS, 4),
        (None, SLICED, 1),
        ("", GPUS, 0),
        ("-1", GPUS, 0),
        ("NoDevFiles", GPUS, 0),
        ("0", GPUS, 1),
        ("0,1,3", GPUS, 3),
        ("0, 1", GPUS, 2),
        ("2,", GPUS, 1),
        ("1,-1,2", GPUS, 1),
        ("1,1", GPUS, 0),
        ("GPU-0a,GPU-3a", GPUS, 2),
        ("MIG-1", SLICED, 1),
        ("MIG-GPU-0a/1/0", SLICED, 1),
        ("MIG-1,MIG-2", SLICED, 1),
    ],
)
def test_gpus_are_counted_as_cuda_counts_them(visible: str | None, shown: str, count: int, tmp_path: Path) -> None:
    assert run_with_gpus(tmp_path, visible, shown, 'source "$1"; count_gpus') == str(count)


def run_with_gpus(folder: Path, visible: str | None, shown: str, program: str) -> str:
    """What a bash program prints where nvidia-smi shows these GPUs; its $1 is launch.sh."""
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\nprintf '%s' '{shown}'\n")
    (folder / "nvidia-smi").chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name not in READ}
    environment |= {"PATH": f"{folder}:{os.environ['PATH']}"} | (
        {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    )
    arguments = ["bash", "-c", program, "bash", str(SCRIPTS / "launch.sh")]
    return subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("script", ["run_grpo_vision_zero.sh", "vllm_server.sh"])
@pytest.mark.parametrize("visible", ["", "-1"])
def test_no_gpu_is_told_and_nothing_starts(script: str, visible: str, tmp_path: Path) -> None:
    variables = {"IMAGES_DIR": str(PHOTOS), "MODEL": str(BENCH_MODEL), "OUTPUT_BASE_DIR": str(tmp_path)}
    finished = bash(script, **variables, CUDA_VISIBLE_DEVICES=visible)
    assert (finished.returncode, len(finished.stderr.splitlines())) == (1, 1)
    assert f"no GPU found (nvidia-smi -L, CUDA_VISIBLE_DEVICES={visible}); NUM_GPUS=0 " in finished.stderr
    assert list(tmp_path.iterdir()) == []
    dry = bash(script, **variables, CUDA_VISIBLE_DEVICES=visible, DRY_RUN="1")  # may be for another machine
    assert (dry.returncode, "no GPU found" in dry.stderr) == (0, True)


@pytest.mark.parametrize(
    ("variables", "arguments", "use_vllm"),
    [
        ({"NUM_GPUS": "0"}, [], "false"),
        ({"NUM_GPUS": "2"}, [], "true"),
        ({"NUM_GPUS": "0"}, ["--use_vllm", "true"], "true"),
        ({"NUM_GPUS": "2"}, ["--use-vllm=false"], "false"),
        ({"NUM_GPUS": "2"}, ["--use_vllm=auto"], "true"),
        ({"NUM_GPUS": "2", "PATH": without_packages()}, [], "false"),
    ],
)
def test_vllm_plays_where_it_and_a_gpu_are(variables: dict[str, str], arguments: list[str], use_vllm: str) -> None:
    """The last case has a Python without vLLM."""
    with_vllm = f"{folder_of_shared_python()}:{os.environ['PATH']}"
    given = {**OWN, "REPORT_TO": "none", "PATH": with_vllm, **variables}
    line = command("run_grpo_vision_zero.sh", *arguments, **given)
    assert "auto" not in [line[at + 1] for at, word in enumerate(line) if word == "--use_vllm"]
    assert [word for word in line if word == "--use_vllm=auto"] == []
    given_last = max(at for at, word in enumerate(line) if re.match("--use.vllm", word))
    last = "=".join(line[given_last:]).split("=")[1]
    assert last == use_vllm
    assert "--vllm_max_model_length" not in line  # a number would be refused for a model that holds less


@pytest.mark.parametrize(
    ("variables", "options", "message"),
    [
        ({"NUM_GPUS": "8"}, {"games_per_iteration": 100}, "=100 cannot be shared evenly by 8 processes; "
         "give --games_per_iteration 104"),
        ({"NUM_GPUS": "3"}, {}, "games_per_iteration=128 cannot be shared evenly by 3 processes"),
        ({"NUM_GPUS": "0", "NUM_PROCESSES": "2"}, {"games_per_iteration": "9"}, "=9 cannot be shared evenly by 2"),
        ({"NUM_GPUS": "8"}, {"per_device_train_batch_size": 5}, "every process has 128 votes per iteration"),
        ({"NUM_GPUS": "8"}, {"updates_per_iteration": 3}, "updates_per_iteration=3"),
    ],
)  # fmt: skip
def test_games_that_processes_cannot_share(
    variables: dict[str, str], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """Told in one line, at once, where the program would need its imports and every process would tell it."""
    refused = bash("run_grpo_vision_zero.sh", *words(**options), **{**OWN, **variables, "DRY_RUN": "1"})
    assert (refused.returncode, refused.stdout) == (1, "")
    errors = [line for line in refused.stderr.splitlines() if "warning" not in line]
    assert len(errors) == 1
    assert message in errors[0]


def test_a_resumed_runs_games_must_be_shared_too(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "config.yaml").write_text(
        "games_per_iteration: 9\nnum_generations: 8\nper_device_train_batch_size: 4\nupdates_per_iteration: 1\n"
        "use_cpu: true\n"
    )
    usual = {"OUTPUT_BASE_DIR": str(tmp_path), "RUN_NAME": "first", "RESUME": "1"}
    assert "--resume" in command("run_grpo_vision_zero.sh", **usual)  # on the CPU, as its options say
    refused = bash("run_grpo_vision_zero.sh", "--use_cpu", "false", **usual, NUM_GPUS="2", DRY_RUN="1")
    assert "games_per_iteration=9 cannot be shared evenly by 2 processes" in refused.stderr


def test_what_a_resumed_run_has_is_not_set_aside_in_silence(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    config = tmp_path / "first" / "config.yaml"
    config.write_text("use_cpu: true\nuse_peft: true\n")
    usual = {"OUTPUT_BASE_DIR": str(tmp_path), "RUN_NAME": "first", "RESUME": "1"}
    assert command("run_lora_1gpu.sh", **usual)[:3] == ["python", "-m", "vision_zero.train"]
    refused = bash("run_grpo_vision_zero.sh", **usual, NUM_GPUS="2", DRY_RUN="1")
    assert "NUM_GPUS=2, but the options have use_cpu: true; set NUM_GPUS=0" in refused.stderr
    config.write_text("deepspeed: some.json\n")
    refused = bash("run_grpo_vision_zero.sh", **usual, DEEPSPEED="none", NUM_GPUS="1", DRY_RUN="1")
    assert "DEEPSPEED=none, but the options have deepspeed: some.json" in refused.stderr
    config.write_text("deepspeed: null\n")
    command("run_grpo_vision_zero.sh", **usual, DEEPSPEED="none", NUM_GPUS="1")


@pytest.mark.parametrize(
    ("script", "variables", "words"),
    [
        ("make_photos.sh", {"PHOTOS": "/nope"}, "PHOTOS: /nope does not exist"),
        ("make_photos.sh", {"INSTRUCTIONS": "/nope.txt"}, "put it after the script's name: --instructions /nope.txt"),
        ("make_charts.sh", {"N": "abc"}, "N=abc is not a number"),
        ("make_clevr.sh", {"WORKERS": "many"}, "WORKERS=many is not a number"),
        ("download_data.sh", {"SOURCE": "/nope"}, "SOURCE: /nope does not exist"),
        ("eval_vlmevalkit.sh", {"MODEL": "/nope"}, "MODEL: /nope holds no model"),
        ("toy_selfplay.sh", {"MODEL": "/nope"}, "put it after the script's name: --model_name_or_path /nope"),
        ("toy_selfplay.sh", {"GAMES": "8"}, "put it after the script's name: --games_per_iteration 8"),
        ("toy_selfplay.sh", {"FINAL_GAMES": "08"}, "FINAL_GAMES=08 is not a number"),
        ("make_charts.sh", {"KINDS": "bar"}, "put it after the script's name: --kinds bar"),
        ("make_clevr.sh", {"GAP": "2"}, "put it after the script's name: --gap 2"),
        ("vllm_server.sh", {"DTYPE": "float16", "NUM_GPUS": "0"}, "put it after the script's name: --dtype float16"),
        ("run_grpo_vision_zero.sh", {"IMAGES_DIR": str(PHOTOS), "NUM_GPUS": "08"}, "NUM_GPUS=08 is not a number"),
    ],
)
def test_a_dry_run_checks_what_can_be_checked(script: str, variables: dict[str, str], words: str) -> None:
    refused = bash(script, DRY_RUN="1", **variables)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert words in refused.stderr


@pytest.mark.parametrize(
    ("script", "variables", "arguments", "message"),
    [
        ("run_grpo_vision_zero.sh", {}, ["--learning_rte", "3"], "unknown arguments: --learning_rte 3"),
        ("run_grpo_vision_zero.sh", {}, ["--images", "/nope"], "/nope: no such file or folder"),
        ("run_grpo_vision_zero.sh", {"REPORT_TO": "wandbb"}, [], "report_to=wandbb is not known; trackers are"),
        ("run_grpo_vision_zero.sh", {}, ["--rho", "1.5"], "must be in [0, 1), got 1.5"),
        ("run_grpo_vision_zero.sh", {"MODEL": "{broken}"}, [], "has no weights"),
        ("run_grpo_vision_zero.sh", {}, ["--arena_images", "/nope"], "/nope: no such file or folder"),
        ("run_grpo_vision_zero.sh", {"NUM_GPUS": "2"}, ["--use_vllm", "true", "--vllm_tensor_parallel_size", "4"],
         "vllm_tensor_parallel_size=4 processes share an engine"),
        ("run_lora_1gpu.sh", {"NUM_GPUS": "1"}, ["--lora_dropout", "0.1"], "lora_dropout=0.1 must be 0"),
        ("quickstart.sh", {}, ["--iteration", "3"], "unknown arguments: --iteration 3"),
        ("toy_selfplay.sh", {}, ["--template", "/nope"], "/nope"),
        ("make_clevr.sh", {}, ["--gapp", "3"], "unrecognized arguments: --gapp 3"),
        ("make_charts.sh", {}, ["--tables", "/nope"], "/nope"),
        ("make_photos.sh", {}, ["--instructions", "/nope.txt"], "/nope.txt"),
        ("eval_vlmevalkit.sh", {}, ["--base", str(BENCH_MODEL), "--limitt", "3"], "--limitt"),
        ("eval_vlmevalkit.sh", {"BENCHMARKS": "MMStarr"}, ["--base", str(BENCH_MODEL)], "MMStarr"),
        ("eval_vlmevalkit.sh", {"MODEL": "runs/nothing"}, ["--base", str(BENCH_MODEL)], "runs/nothing"),
        ("download_data.sh", {"SET": "magicbush"}, [], "magicbush: not a known set"),
    ],
)  # fmt: skip
def test_a_dry_run_asks_the_program(
    script: str, variables: dict[str, str], arguments: list[str], message: str, tmp_path: Path
) -> None:
    """What it would refuse after the script's own checks. Nothing is written."""
    broken, out = tmp_path / "broken", tmp_path / "out"
    shutil.copytree(BENCH_MODEL, broken)
    (broken / "model.safetensors").unlink()
    own = {**OWN, "OUT": str(out), "RUN_DIR": str(out), "OUTPUT_BASE_DIR": str(out), "MODEL": str(BENCH_MODEL)}
    given = {name: value.format(broken=broken) for name, value in variables.items()}
    if script == "toy_selfplay.sh":
        del own["MODEL"]
    refused = bash(script, *arguments, DRY_RUN="1", **{**own, **given})
    assert (refused.returncode in (1, 2), refused.stdout) == (True, "")
    assert message in refused.stderr.splitlines()[-1]
    assert not out.exists()


def test_a_dry_run_looks_at_images_and_model(tmp_path: Path) -> None:
    own = {**OWN, "OUTPUT_BASE_DIR": str(tmp_path), "MODEL": str(BENCH_MODEL), "DRY_RUN": "1"}
    told = bash("run_grpo_vision_zero.sh", **own)
    assert told.returncode == 0
    assert "opened, 0 bad\ntokens of an image: " in told.stderr
    of_the_hub = bash("run_grpo_vision_zero.sh", **{**own, "MODEL": "Qwen/Qwen2.5-VL-7B-Instruct"})
    assert "the model Qwen/Qwen2.5-VL-7B-Instruct is not checked: it is no folder here\n" in of_the_hub.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", ["run_grpo_vision_zero.sh", "quickstart.sh", "make_clevr.sh", "vllm_server.sh"])
def test_a_dry_run_without_an_installation(script: str, tmp_path: Path) -> None:
    (tmp_path / "python").symlink_to("/bin/false")
    own = {**OWN, "OUT": str(tmp_path / "out"), "RUN_DIR": str(tmp_path / "out"), "MODEL": str(BENCH_MODEL)}
    told = bash(script, "--nonsense", DRY_RUN="1", **own, PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert (told.returncode, "--nonsense" in told.stdout) == (0, True)
    assert f"{script}: options not checked: nothing is installed" in told.stderr


@pytest.mark.slow
def test_a_dry_run_of_the_server_asks_vllm() -> None:
    own = {"NUM_GPUS": "2", "MODEL": str(BENCH_MODEL), "DRY_RUN": "1"}
    refused = bash(
        "vllm_server.sh", "--gpu-memory", "0.5", **own, PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "unrecognized arguments: --gpu-memory" in refused.stderr


def test_a_misspelt_model_is_told() -> None:
    own = {"IMAGES_DIR": str(PHOTOS), "MODLE": "data/tiny_vlm", "DRY_RUN": "1"}
    assert "MODLE is set, and nothing reads it; did you mean MODEL?" in bash("run_grpo_vision_zero.sh", **own).stderr


def test_lists_of_an_options_file_are_read(tmp_path: Path) -> None:
    """A resumed run's trackers are in one: without them wandb would not be told to stay offline."""
    file = tmp_path / "config.yaml"
    file.write_text("images:\n- a b\n- c  # a comment\nreport_to:\n  - wandb\n  - tensorboard\nseed: 3\n")
    lines = (
        f'source {SCRIPTS}/training.sh; read_values {file}; printf "%s|" "${{value[images]}}" "${{value[report_to]}}" '
    )
    done = subprocess.run(
        ["bash", "-c", lines + '"${value[seed]}"', str(SCRIPTS / "run_grpo_vision_zero.sh")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "a b c|wandb tensorboard|3|"


def test_training_beside_a_server_can_share_its_games() -> None:
    """The commands at the top of vllm_server.sh."""
    header = (SCRIPTS / "vllm_server.sh").read_text().split("set -euo")[0]
    trainers, players = re.findall(r"CUDA_VISIBLE_DEVICES=([\d,]+) IMAGES_DIR", header), ["--use_vllm", "true"]
    own = {"IMAGES_DIR": str(PHOTOS), "CUDA_VISIBLE_DEVICES": trainers[0]}
    line = command("run_grpo_vision_zero.sh", *players, "--vllm_mode", "server", **own)
    assert line[line.index("--nproc_per_node") + 1] == str(len(trainers[0].split(",")))


def test_lora_script(parsed: Mapping[str, Mapping[str, str]]) -> None:
    line = command("run_lora_1gpu.sh", IMAGES_DIR=str(PHOTOS))
    assert line[line.index("--nproc_per_node") + 1] == "1"
    assert "--deepspeed" not in line
    expect(parsed["lora"], use_peft=True, lora_r=32, lora_alpha=64, lora_dropout=0.0, games_per_iteration=32)


@pytest.mark.parametrize("words", [("--rounds", "1"), ("--updates_per_iteration", "1", "--seed", "1")])
def test_lora_script_keeps_its_options_beside_a_1(words: tuple[str, ...]) -> None:
    """A value of 1 is no RESUME=1, whose run has options of its own."""
    line = command("run_lora_1gpu.sh", *words, IMAGES_DIR=str(PHOTOS))
    assert line[line.index("--use_peft") + 1] == "true"
    assert tuple(line[-len(words) :]) == words


def test_lora_presets_are_the_plans() -> None:
    """GPU_GB takes batches and pixels from `vision_zero.plan`, which refuses a model that does not fit."""
    usual = {"IMAGES_DIR": str(PHOTOS), "NUM_GPUS": "1", "DRY_RUN": "1"}
    planned = flags(shlex.split(bash("run_lora_1gpu.sh", **usual, GPU_GB="24").stdout))
    last = {word: value for word, value in pairwise(planned) if word.startswith("--")}
    assert (last["--rollout_batch_size"], last["--max_pixels"], last["--use_vllm"]) == ("8", "76800", "false")
    for variables, said in (
        ({"GPU_GB": "32"}, "GPU_GB=32 must be 24, 48 or 80"),
        ({"GPU_GB": "24", "MODEL": "qwen2.5-vl-32b"}, "no batch does, nor with weights of 4 bits"),
        ({"GPU_GB": "24", "RESUME": "1", "RUN_NAME": "run"}, "GPU_GB plans a new run of MODEL"),
        ({"GPU_GB": "24", "MODEL": "nobody/nothing"}, "is no folder, config.json or model of the cache"),
    ):
        refused = bash("run_lora_1gpu.sh", **usual, **variables)
        assert refused.returncode == 1
        assert said in refused.stderr


def test_lora_layers_are_the_language_models() -> None:
    """The word of the script, against the layer names of a Qwen2.5-VL."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    from vision_zero.rollout.lora import LANGUAGE, language_layers

    line = command("run_lora_1gpu.sh", IMAGES_DIR=str(PHOTOS))
    assert line[line.index("--lora_target_modules") + 1] == LANGUAGE
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(BENCH_MODEL))
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    chosen = {name for name in linear if re.fullmatch(language_layers(model), name)}
    assert chosen == {name for name in linear if ".language_model.layers." in name}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"IMAGES_DIR": ""}, "set IMAGES_DIR"),
        ({"IMAGES_DIR": "/no/such/folder"}, "/no/such/folder does not exist"),
        ({"IMAGES_DIR": f"{PHOTOS},charts:/no/charts"}, "/no/charts does not exist"),
        ({"SCENES_DIR": "/no/scenes"}, "/no/scenes is not a folder"),
        ({"MODEL": "/no/model"}, "/no/model holds no model"),
        ({"DEEPSPEED": "/no/zero.json"}, "/no/zero.json is not a file"),
        ({"IMAGES_DIR": f"{PHOTOS}\n{DRAWN}"}, "IMAGES_DIR has a line break"),
        ({"NUM_GPUS": "all"}, "NUM_GPUS=all is not a number"),
        ({"NUM_PROCESSES": "two"}, "NUM_PROCESSES=two is not a number"),
        ({"NUM_PROCESSES": "0"}, "NUM_PROCESSES=0 must be at least 1"),
        ({"MODEL": str(ROOT / "docs")}, "docs holds no model"),
        ({"MODEL": "a/b/c"}, "a/b/c holds no model"),
        ({"RESUME": "1"}, "RESUME=1 needs the RUN_NAME"),
        ({"RESUME": "1", "RUN_NAME": "x", "OUTPUT_BASE_DIR": "/no/runs"}, "there is no run /no/runs/x"),
        ({"NUM_GPUS": "99", "DRY_RUN": "0"}, "NUM_GPUS=99, but this machine shows"),
    ],
)
def test_refused_before_anything_slow_starts(variables: dict[str, str], message: str, tmp_path: Path) -> None:
    usual = {"IMAGES_DIR": str(PHOTOS), "OUTPUT_BASE_DIR": str(tmp_path), "DRY_RUN": "1"}
    finished = bash("run_grpo_vision_zero.sh", **{**usual, **variables})
    assert finished.returncode == 1
    assert message in finished.stderr
    assert list(tmp_path.iterdir()) == []


def test_drawn_scenes_need_no_folder() -> None:
    line = command("run_grpo_vision_zero.sh", IMAGES_DIR=f"drawn:10,{PHOTOS}", NUM_GPUS="0", NUM_PROCESSES="")
    assert line[line.index("--images") + 1 :][:2] == ["drawn:10", str(PHOTOS)]


def test_images_may_be_an_argument() -> None:
    line = command("run_grpo_vision_zero.sh", "--images", "drawn:10", NUM_GPUS="0")
    assert line[line.index("--images") + 1] == "drawn:10"


def test_a_new_template_file_is_a_domain_to_script_reader_and_game(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src")
    shutil.copytree(SCRIPTS, tmp_path / "run_scripts")
    images = tmp_path / "my" / "maps"
    shutil.copytree(PHOTOS, images)
    templates = tmp_path / "src" / "vision_zero" / "game" / "templates"
    own = {"PYTHONPATH": str(tmp_path / "src"), "OUTPUT_BASE_DIR": str(tmp_path / "runs")}
    script = str(tmp_path / "run_scripts" / "run_grpo_vision_zero.sh")
    refused = bash(script, IMAGES_DIR=f"newdomain:{images}", DRY_RUN="1", **own)
    assert (refused.returncode, f"newdomain:{images} does not exist" in refused.stderr) == (1, True)

    text = (templates / "scenes.txt").read_text().replace("a hidden scene", "a hidden map")
    (templates / "newdomain.txt").write_text(text)
    line = command(script, IMAGES_DIR=f"newdomain:{images}", **own)
    assert line[line.index("--images") + 1] == f"newdomain:{images}"
    program = """
import sys
from tiny_vlm.scripted import FunctionPlayer
from vision_zero.data.pairs import load_pairs
from vision_zero.game.spy_game import deal_games
from vision_zero.rollout.play import Seating, play
from vision_zero.rollout.policy import TokenLimits
from vision_zero.types import GameRules
prompts = []
def clue(request, rng):
    prompts.append(request.prompt.text)
    return "a road"
player = FunctionPlayer(clue, lambda request, rng: 1)
games = deal_games(range(2), 0, load_pairs(sys.argv[1]), GameRules(n_civilians=2, n_rounds=1))
played = play(games, Seating.of(player), dict.fromkeys(("clue", "decision"), TokenLimits(0, 9))).games
assert [game.pair.domain for game in played] == ["newdomain"] * 2
assert all(len(game.votes) == 8 for game in played)
assert len(prompts) == 6
assert all("a hidden map" in prompt for prompt in prompts)
"""
    own["PYTHONPATH"] += f":{ROOT / 'experiments'}"
    subprocess.run([sys.executable, "-c", program, f"newdomain:{images}"], env={**os.environ, **own}, check=True)


def test_refuses_another_runs_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "metrics.jsonl").touch()
    usual = {"IMAGES_DIR": str(PHOTOS), "OUTPUT_BASE_DIR": str(tmp_path), "RUN_NAME": "taken"}
    finished = bash("run_grpo_vision_zero.sh", DRY_RUN="1", **usual)
    assert finished.returncode == 1
    assert "continue it with RESUME=1" in finished.stderr
    assert len(finished.stderr.splitlines()) == 4
    lora = bash("run_lora_1gpu.sh", DRY_RUN="1", **usual)
    assert (
        f"continue it with RESUME=1 OUTPUT_BASE_DIR={tmp_path} RUN_NAME=taken bash run_scripts/run_lora_1gpu.sh"
        in lora.stderr
    )
    line = command("run_grpo_vision_zero.sh", RESUME="1", **usual)
    assert line[line.index("--resume") + 1] == "true"


def test_what_is_left_before_a_run_began_is_no_run(tmp_path: Path) -> None:
    """As by a job that was ended in its first minute, which the scheduler starts again."""
    (tmp_path / "run").mkdir()
    for name in run_folder.BEFORE_THE_RUN:
        (tmp_path / "run" / name).touch()
    assert command("run_grpo_vision_zero.sh", **{**OWN, "OUTPUT_BASE_DIR": str(tmp_path)})
    (tmp_path / "run" / run_folder.CONFIG).touch()
    assert bash("run_grpo_vision_zero.sh", DRY_RUN="1", **{**OWN, "OUTPUT_BASE_DIR": str(tmp_path)}).returncode == 1


def test_quickstart_is_refused_a_second_time(tmp_path: Path) -> None:
    run = tmp_path / "quickstart"
    nothing = bash("quickstart.sh", "--resume", RUN_DIR=str(run))
    assert nothing.returncode == 1
    assert f"no run {run} to resume" in nothing.stderr

    run.mkdir()
    (run / "metrics.jsonl").write_text("kept")
    second = bash("quickstart.sh", RUN_DIR=str(run))
    assert second.returncode == 1
    assert "quickstart.sh --resume" in second.stderr
    assert [path.name for path in run.iterdir()] == ["metrics.jsonl"]
    assert (run / "metrics.jsonl").read_text() == "kept"

    assert "--resume" in command("quickstart.sh", "--resume", RUN_DIR=str(run))


def test_quickstart_plays_enough_to_visit_both_stages(parsed: Mapping[str, Mapping[str, str]]) -> None:
    options = parsed["quickstart"]
    expect(options, use_cpu=True, report_to=[], template="compact", model_name_or_path="data/tiny_vlm")
    assert 2 * (int(options["k_min"]) + int(options["patience"])) <= int(options["iterations"])
    expect(parsed["quickstart changed"], iterations=7)


def test_every_variable_of_the_server_changes_its_command() -> None:
    script = (SCRIPTS / "vllm_server.sh").read_text()
    variables = set(re.findall(r'^([A-Z_]+)="\$\{\1:-', script, re.MULTILINE)) - {"DRY_RUN"}
    assert len(variables) == 6
    own = {"NUM_GPUS": "2", "MODEL": str(BENCH_MODEL)}
    usual = command("vllm_server.sh", **own)
    values = {"MODEL": str(ROOT / "data" / "tiny_vlm"), "NUM_GPUS": "1"}
    silent = [name for name in variables if command("vllm_server.sh", **{**own, name: values.get(name, "7")}) == usual]
    assert silent == []


def test_server_on_the_cpu_and_other_options() -> None:
    line = command("vllm_server.sh", "--seed", "3", NUM_GPUS="0", MODEL=str(BENCH_MODEL))
    assert line[line.index("--dtype") + 1] == "float32"
    assert "--weight-transfer-config" not in line
    assert line[-2:] == ["--seed", "3"]
    for variables, message in (({"MODEL": "/no/model"}, "holds no model"), ({"NUM_GPUS": "all"}, "is not a number")):
        refused = bash("vllm_server.sh", DRY_RUN="1", **variables)
        assert refused.returncode == 1
        assert message in refused.stderr


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that run_grpo_vision_zero.sh really did: an iteration of each stage with a random model."""
    base = tmp_path_factory.mktemp("trained")
    finished = bash("run_grpo_vision_zero.sh", *SMALL, **small_run(base))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert f"run          {base}/small" in finished.stdout
    assert (
        f"wandb is offline, without a key; to send the run later: wandb sync {base}/wandb/offline-run-*"
        in finished.stderr
    )
    before_the_first_game = (finished.stdout + finished.stderr).split("arena after step 0")[0]
    (base / "start.txt").write_text(before_the_first_game)
    (base / "output.txt").write_text(finished.stdout)
    return base / "small"


def small_run(base: Path) -> dict[str, str]:
    return {
        "IMAGES_DIR": f"{PHOTOS},{DRAWN}",
        "SCENES_DIR": str(DRAWN / "scenes"),
        "MODEL": str(BENCH_MODEL),
        "OUTPUT_BASE_DIR": str(base),
        "RUN_NAME": "small",
        "HOME": str(base),  # no wandb login here
        "WANDB_MODE": "",
        "WANDB_API_KEY": "",
        "NUM_GPUS": "0",
    }


SMALL = words(
    max_pixels=3136, template="compact", civilians=2, rounds=1, games_per_iteration=2, num_generations=2, iterations=2,
    k_min=1, patience=1, max_clue_tokens=6, max_vote_tokens=4, per_device_train_batch_size=2, save_every=1,
    arena_games=4,
    format_weight=0.5,  # completions of random weights cannot be parsed; this gives them a gradient
)  # fmt: skip


def test_the_start_is_short_and_the_numbers_can_be_read(trained: Path) -> None:
    start = (trained.parent / "start.txt").read_text().splitlines()
    for words_of_others in ("Loading weights", "PAD/BOS/EOS", "rollout_func", "accelerator to CPU"):
        assert not any(words_of_others in line for line in start)
    text = (trained.parent / "output.txt").read_text()
    banner = [line for line in start if re.match(r"run |images |processes |tracker |unlike |afterwards ", line)]
    assert len(banner) == 6
    assert "unlike configs/paper_v2.yaml: civilians=2 (4) rounds=1 (2) spy_view=auto (blank) template=compact" in text
    assert "beta=" not in next(line for line in banner if line.startswith("unlike"))
    printed = re.findall(r"  loss (\S+)  KL (\S+)  gradient (\S+)  ", text)
    logged = run_folder.read_json_lines(trained / "metrics.jsonl")
    assert [[float(number) for number in line] for line in printed] == [
        [float(f"{line[name]:.3g}") for name in ("loss", "kl", "grad_norm")] for line in logged
    ]


def test_script_trains_both_stages_on_a_cpu(trained: Path) -> None:
    lines = run_folder.read_json_lines(trained / "metrics.jsonl")
    assert [line["stage/is_clue"] for line in lines] == [0.0, 1.0]
    assert [line["reason"] for line in run_folder.read_json_lines(trained / "switches.jsonl")] == ["patience", "rule"]
    assert (trained / "checkpoint-2" / "export" / "model.safetensors").is_file()
    assert (trained.parent / "wandb").is_dir()
    assert [line["step"] for line in run_folder.read_json_lines(trained / "arena.jsonl")] == [0, 2]


def test_a_trained_run_is_refused_and_can_be_summarized_and_drawn(trained: Path, tmp_path: Path) -> None:
    again = bash("run_grpo_vision_zero.sh", *SMALL, **small_run(trained.parent))
    assert again.returncode == 1
    assert "holds a run already" in again.stderr
    text = summary.summarize_run(trained)
    assert "iterations  2 of 2 (1 decision, 1 clue)" in text
    assert str(trained / "checkpoint-2" / "export") in text
    assert report([str(trained), "--game", "--out", str(tmp_path / "game.png")]) == 0


WITH_AN_ENGINE = {
    "sampling/masked_completions",
    *(f"sampling/sampling_logp_difference/{name}" for name in ("mean", "max")),
    *(f"sampling/importance_sampling_ratio/{name}" for name in ("mean", "min", "max")),
}
"""Logged with use_vllm beside `sampling/logp_gap`; tests/trainer/test_vllm.py holds a run to these names."""


def test_metrics_page_names_what_is_logged_and_nothing_else(trained: Path) -> None:
    page = (ROOT / "docs" / "runs.md").read_text()
    described = re.findall(r"^\| `([\w/]+)`", page, re.MULTILINE)
    assert len(described) == len(set(described))
    logged = set().union(*(line.keys() for line in run_folder.read_json_lines(trained / "metrics.jsonl")))
    # The scripts' small runs have no arena; tests/evaluate/win_rate holds what one logs to these names.
    arena = {*(f"arena/{name}" for name in LOGGED), LOW, HIGH, SECONDS}
    past = {"past/games", "past/votes_right"}  # tests/trainer/test_past_players.py
    clues = {"clues/most_common", "clues/repeated"}  # of clues that are parsed; here no model speaks the game
    servers = {"rollout/servers"}  # tests/rollout/vllm/test_several_servers.py
    assert set(described) == logged | arena | WITH_AN_ENGINE | past | clues | servers


def test_configuration_page_is_what_the_options_say() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == configuration.page(), "run: python -m vision_zero.config > docs/configuration.md"


def test_a_resumed_run_has_its_own_options_but_those_that_are_set(tmp_path: Path) -> None:
    """A script's own values are no wish of the user: a run begun with --template compact would go on with auto."""
    run = tmp_path / "first"
    run.mkdir()
    (run / "config.yaml").write_text("updates_per_iteration: 2\n")
    usual = {"OUTPUT_BASE_DIR": str(tmp_path), "RUN_NAME": "first", "RESUME": "1"}
    own = ["--output_dir", str(run), "--resume", "true"]
    assert flags(command("run_grpo_vision_zero.sh", **usual)) == own
    line = command("run_grpo_vision_zero.sh", *words(iterations=200, save_every=5), **usual, NUM_GPUS="0")
    assert flags(line) == ["--output_dir", str(run), "--use_cpu", "true", "--resume", "true",
                           "--iterations", "200", "--save_every", "5"]  # fmt: skip
    asked = command("run_grpo_vision_zero.sh", "--resume", **{**usual, "RESUME": "0"})
    assert flags(asked) == ["--output_dir", str(run), "--resume", "true", "--resume"]
    assert flags(command("run_lora_1gpu.sh", "--lora_r", "8", **usual)) == [*own, "--lora_r", "8"]
    assert flags(command("quickstart.sh", "--resume", RUN_DIR=str(run))) == ["--output_dir", str(run), "--resume"]
    assert flags(command("quickstart.sh", RESUME="1", RUN_DIR=str(run))) == ["--output_dir", str(run), "--resume"]
    resumed = {"DRY_RUN": "1", "RESUME": "1", "OUT": str(run), "PATH": without_packages()}
    toy = bash("toy_selfplay.sh", "--games_per_iteration", "8", **resumed)
    toy_line = toy.stdout.splitlines()[0]
    assert flags(shlex.split(toy_line)) == ["--output_dir", str(run), "--resume", "true", "--games_per_iteration", "8"]

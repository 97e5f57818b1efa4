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
from pathlib import Path

import pytest
import yaml

from tests.process_helpers import run_program
from vision_zero import run_folder
from vision_zero.config import __main__ as configuration
from vision_zero.evaluate.win_rate.callback import HIGH, LOGGED, LOW, SECONDS
from vision_zero.report import main as report
from vision_zero.report import summary

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ROOT / "run_scripts"
BENCH_MODEL = ROOT / "tests" / "models" / "bench_model"
PHOTOS, DRAWN = ROOT / "data" / "photos", ROOT / "data" / "drawn"

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
    """Run a script from a folder that is not the repository's, with nothing of ours in its environment."""
    scripts = "".join((SCRIPTS / name).read_text() for name in ("run_grpo_vision_zero.sh", "vllm_server.sh"))
    ours = set(re.findall(r"^(?:export )?([A-Z_0-9]+)=", scripts, re.MULTILINE))
    kept = {name: value for name, value in os.environ.items() if name not in ours | {"RUN_DIR", "THREADS"}}
    environment = {
        **kept,
        "PATH": f"{Path(sys.executable).parent}:{kept['PATH']}",
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
    """The command that a dry run prints."""
    finished = bash(script, *arguments, DRY_RUN="1", **variables)
    assert finished.returncode == 0, finished.stderr
    return shlex.split(finished.stdout)


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
            "--debias",
            "true",
            IMAGES_DIR=f"{PHOTOS},scenes:{DRAWN}",
            OUTPUT_BASE_DIR=base,
            SCENES_DIR=str(DRAWN / "scenes"),
            MODEL=str(BENCH_MODEL),
            NUM_GPUS="0",
            CIVILIANS="3",
            GAMES="16",
            UPDATES="2",
            SAVE_EVERY="5",
            KL_CLUE="0.01",
            MAX_PIXELS="76800",
            NA_REWARD="0.25",
            DEBIAS="false",
        ),
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


@pytest.mark.parametrize(
    "name",
    [
        "gpu_checklist.sh",
        "quickstart.sh",
        "run_grpo_vision_zero.sh",
        "run_lora_1gpu.sh",
        "test.sh",
        "toy_selfplay.sh",
        "vllm_server.sh",
    ],
)
def test_scripts_are_clean(name: str) -> None:
    subprocess.run(["bash", "-n", str(SCRIPTS / name)], check=True)
    subprocess.run([str(Path(sys.executable).parent / "shellcheck"), "-x", str(SCRIPTS / name)], cwd=ROOT, check=True)


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


def test_every_variable_changes_the_command() -> None:
    """A variable that nothing reads would be a lie at the top of the script."""
    script = (SCRIPTS / "run_grpo_vision_zero.sh").read_text()
    variables = re.findall(r'^([A-Z_]+)="\$\{\1:-', script, re.MULTILINE)
    assert len(variables) > 50
    own = {"IMAGES_DIR": str(PHOTOS), "NUM_GPUS": "0", "RUN_NAME": "run", "OUTPUT_BASE_DIR": "/nowhere"}
    usual = command("run_grpo_vision_zero.sh", **own)
    values = {
        "IMAGES_DIR": str(DRAWN),
        "SCENES_DIR": str(DRAWN),
        "MODEL": str(BENCH_MODEL),
        "NUM_GPUS": "1",
        "NUM_PROCESSES": "2",
        "DEEPSPEED": str(ROOT / "configs/deepspeed/zero2.json"),
        "DEBIAS": "true",
    }
    outside = {"DRY_RUN", "WANDB_PROJECT", "RESUME"}  # not options: tested below, or read by wandb
    silent = [
        name
        for name in variables
        if name not in outside and command("run_grpo_vision_zero.sh", **{**own, name: values.get(name, "7")}) == usual
    ]
    assert silent == []


def test_lora_script(parsed: Mapping[str, Mapping[str, str]]) -> None:
    line = command("run_lora_1gpu.sh", IMAGES_DIR=str(PHOTOS))
    assert line[line.index("--nproc_per_node") + 1] == "1"
    assert "--deepspeed" not in line
    expect(parsed["lora"], use_peft=True, lora_r=32, lora_alpha=64, lora_dropout=0.0, games_per_iteration=32)


def test_lora_layers_are_the_language_models() -> None:
    """The expression of the script, against the layer names of a Qwen2.5-VL."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    line = command("run_lora_1gpu.sh", IMAGES_DIR=str(PHOTOS))
    expression = line[line.index("--lora_target_modules") + 1]
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(BENCH_MODEL))
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    chosen = {name for name in linear if re.fullmatch(expression, name)}
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
        ({"SAVE_EVERY": "1.5"}, "SAVE_EVERY=1.5 is not a number"),
        ({"SAVE_EVERY": "often"}, "SAVE_EVERY=often is not a number"),
        ({"UPDATES": "-1"}, "UPDATES=-1 is not a number"),
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


def test_drawn_scenes_need_no_folder_and_numbers_are_decimal() -> None:
    variables = {"NUM_GPUS": "0", "NUM_PROCESSES": "", "SAVE_EVERY": "08", "UPDATES": "010"}
    line = command("run_grpo_vision_zero.sh", IMAGES_DIR=f"drawn:10,{PHOTOS}", **variables)
    assert line[line.index("--images") + 1 :][:2] == ["drawn:10", str(PHOTOS)]
    assert line[line.index("--save_steps") + 1] == "80"


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
    line = command("run_grpo_vision_zero.sh", RESUME="1", **usual)
    assert line[line.index("--resume") + 1] == "true"


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
    assert int(options["iterations"]) >= 30
    assert int(options["patience"]) < int(options["iterations"]) / 2
    expect(parsed["quickstart changed"], iterations=7)


def test_every_variable_of_the_server_changes_its_command() -> None:
    script = (SCRIPTS / "vllm_server.sh").read_text()
    variables = set(re.findall(r'^([A-Z_]+)="\$\{\1:-', script, re.MULTILINE)) - {"DRY_RUN"}
    assert len(variables) > 9
    own = {"NUM_GPUS": "2", "MODEL": str(BENCH_MODEL), "EAGER": "0"}
    usual = command("vllm_server.sh", **own)
    values = {"MODEL": str(ROOT / "data" / "tiny_vlm"), "NUM_GPUS": "1", "EAGER": "1"}
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
    finished = bash("run_grpo_vision_zero.sh", **small_run(base))
    assert finished.returncode == 0, finished.stderr[-3000:]
    assert f"run          {base}/small" in finished.stdout
    assert "wandb (offline)" in finished.stdout
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
        "MAX_PIXELS": "3136",
        "TEMPLATE": "compact",
        "CIVILIANS": "2",
        "ROUNDS": "1",
        "GAMES": "2",
        "GENERATIONS": "2",
        "ITERATIONS": "2",
        "K_MIN": "1",
        "PATIENCE": "1",
        "MAX_CLUE_TOKENS": "6",
        "MAX_VOTE_TOKENS": "4",
        "MICRO_BATCH": "2",
        "SAVE_EVERY": "1",
        "FORMAT_WEIGHT": "0.5",  # completions of random weights cannot be parsed; this gives them a gradient
    }


def test_script_trains_both_stages_on_a_cpu(trained: Path) -> None:
    lines = run_folder.read_json_lines(trained / "metrics.jsonl")
    assert [line["stage/is_clue"] for line in lines] == [0.0, 1.0]
    assert [line["reason"] for line in run_folder.read_json_lines(trained / "switches.jsonl")] == ["patience", "rule"]
    assert (trained / "checkpoint-2" / "export" / "model.safetensors").is_file()
    assert (trained.parent / "wandb").is_dir()


def test_a_trained_run_is_refused_and_can_be_summarized_and_drawn(trained: Path, tmp_path: Path) -> None:
    again = bash("run_grpo_vision_zero.sh", **small_run(trained.parent))
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
    assert set(described) == logged | arena | WITH_AN_ENGINE


def test_configuration_page_is_what_the_options_say() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == configuration.page(), "run: python -m vision_zero.config > docs/configuration.md"


def test_a_resumed_run_has_its_own_options_but_those_that_are_set(tmp_path: Path) -> None:
    """A script's own values are no wish of the user: a run begun with TEMPLATE=compact would go on with auto."""
    run = tmp_path / "first"
    run.mkdir()
    (run / "config.yaml").write_text("updates_per_iteration: 2\n")
    usual = {"OUTPUT_BASE_DIR": str(tmp_path), "RUN_NAME": "first", "RESUME": "1"}
    own = ["--output_dir", str(run), "--run_name", "first", "--resume", "true"]
    assert sorted(flags(command("run_grpo_vision_zero.sh", **usual))) == sorted(own)
    given = {"ITERATIONS": "200", "SAVE_EVERY": "5", "TEMPLATE": "", "NUM_GPUS": "0"}
    more = ["--iterations", "200", "--save_steps", "10", "--use_cpu", "true"]
    assert sorted(flags(command("run_grpo_vision_zero.sh", **usual, **given))) == sorted([*own, *more])
    assert sorted(flags(command("run_lora_1gpu.sh", **usual, LORA_R="8"))) == sorted(
        [*own, "--use_peft", "true", "--lora_r", "8"]
    )
    assert flags(command("quickstart.sh", "--resume", RUN_DIR=str(run))) == ["--output_dir", str(run), "--resume"]
    toy = bash("toy_selfplay.sh", DRY_RUN="1", RESUME="1", OUT=str(run), GAMES="8").stdout.splitlines()[0]
    words = ["--output_dir", str(run), "--resume", "true", "--games_per_iteration", "8"]
    assert flags(shlex.split(toy)) == words

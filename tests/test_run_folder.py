"""The folder of a run: what is written, which checkpoints count, and what a resumed run takes back."""

from __future__ import annotations

import json
import re
import subprocess
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.process_helpers import BENCH_MODEL, DRAWN, ROOT, flags
from vision_zero import run_folder
from vision_zero.config.options import DERIVED
from vision_zero.config.parse import parse, resolved
from vision_zero.run_folder import RunFolderError
from vision_zero.train import main
from vision_zero.types import GameRules

CONFIG: dict[str, Any] = {"seed": 1, "games_per_iteration": 4, "beta": 0.04}


def make_checkpoint(run: Path, step: int, *, complete: bool = True) -> Path:
    checkpoint = run_folder.checkpoint_path(run, step)
    (checkpoint / "export").mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    if complete:
        run_folder.mark_complete(checkpoint)
    return checkpoint


def make_run(run: Path, steps: int) -> None:
    """A run that saved checkpoint-2 and -4 and was killed after `steps` steps, while it wrote a line."""
    run_folder.describe(run, CONFIG)
    for step in range(1, steps + 1):
        run_folder.append_json_line(run / "metrics.jsonl", {"step": step, "loss": step / 8})
        # Games and switches of the iteration that makes this step are written before it, under the step before.
        run_folder.write_json_lines(run / "games" / f"step-{step - 1:06d}.jsonl", [{"game": step - 1}])
        run_folder.append_json_line(run / "switches.jsonl", {"step": step - 1})
        if step in (2, 4):
            make_checkpoint(run, step)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')


def steps_of(path: Path) -> list[int]:
    return [line["step"] for line in run_folder.read_json_lines(path)]


def test_half_written_last_line_is_no_line(tmp_path: Path) -> None:
    make_run(tmp_path, 5)
    assert steps_of(tmp_path / "metrics.jsonl") == [1, 2, 3, 4, 5]
    assert run_folder.read_json_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize(
    ("left", "kept", "says"),
    [
        pytest.param('{"step": 2, "cl\u00fc', [1], "removed the last line", id="half"),
        pytest.param('{"step": 2}', [1, 2], "", id="whole but for its line end"),
        pytest.param("", [1], "", id="nothing"),
    ],
)
def test_a_line_is_never_added_to_half_a_line(
    left: str, kept: list[int], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(('{"step": 1}\n' + left).encode()[: -1 if says else None])  # half cuts through a character too
    assert steps_of(path) == [1]
    run_folder.append_json_line(path, {"step": 3})
    assert steps_of(path) == [*kept, 3]
    said = capsys.readouterr().err
    assert (f"{path}: {says}" in said) if says else not said


def test_half_a_line_alone_is_cut_too(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"st')
    run_folder.append_json_line(path, {"step": 3})
    assert path.read_text() == '{"step": 3}\n'


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(RunFolderError, match=r"metrics.jsonl, line 2: not JSON"):
        run_folder.read_json_lines(path)
    path.write_text('{"step": 1}\n3\n')
    with pytest.raises(RunFolderError, match=r"metrics.jsonl, line 2: not JSON"):
        run_folder.read_json_lines(path)
    path.write_text('{"step": 1}\n{"loss": 2}\n')
    with pytest.raises(RunFolderError, match=r"metrics.jsonl, line 2: has no 'step'"):
        run_folder.read_json_lines(path, "step")


def test_lines_are_one_line_each_whatever_they_hold(tmp_path: Path) -> None:
    values = [{"clue": "a\nb\u2028c\x85d \\boxed{é}"}, {"clue": ""}]
    run_folder.write_json_lines(tmp_path / "games.jsonl", values)
    for value in values:
        run_folder.append_json_line(tmp_path / "appended.jsonl", value)
    assert run_folder.read_json_lines(tmp_path / "games.jsonl") == values
    assert run_folder.read_json_lines(tmp_path / "appended.jsonl") == values
    assert [json.loads(line) for line in (tmp_path / "games.jsonl").open(encoding="utf-8")] == values


def test_rewind_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    make_run(tmp_path, 5)
    checkpoint = run_folder.find_start(tmp_path, True, CONFIG)
    assert checkpoint == tmp_path / "checkpoint-4"
    run_folder.rewind(tmp_path, checkpoint)
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 4
    assert steps_of(tmp_path / "metrics.jsonl") == [1, 2, 3, 4]
    assert steps_of(tmp_path / "switches.jsonl") == [0, 1, 2, 3]
    assert sorted(path.name for path in (tmp_path / "games").iterdir()) == [
        f"step-{step:06d}.jsonl" for step in range(4)
    ]


def test_rewind_to_the_beginning(tmp_path: Path) -> None:
    make_run(tmp_path, 1)
    assert run_folder.find_start(tmp_path, True, CONFIG) is None
    run_folder.rewind(tmp_path, None)
    assert steps_of(tmp_path / "metrics.jsonl") == []
    assert steps_of(tmp_path / "switches.jsonl") == []
    assert list((tmp_path / "games").iterdir()) == []
    assert (tmp_path / "config.yaml").is_file()


def test_incomplete_checkpoints_are_never_found_and_are_removed(tmp_path: Path) -> None:
    make_run(tmp_path, 5)
    make_checkpoint(tmp_path, 6, complete=False)
    make_checkpoint(tmp_path, 1, complete=False)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-9.old").mkdir()
    (tmp_path / "checkpoint-99").write_text("a file")
    found = run_folder.find_start(tmp_path, True, CONFIG)
    assert found == tmp_path / "checkpoint-4"
    assert (tmp_path / "checkpoint-6").exists(), "finding a checkpoint changes nothing"
    run_folder.rewind(tmp_path, found)
    assert not (tmp_path / "checkpoint-1").exists()
    assert not (tmp_path / "checkpoint-6").exists()
    for kept in ("checkpoint-2", "checkpoint-best", "checkpoint-9.old", "checkpoint-99"):
        assert (tmp_path / kept).exists()


def test_steps_are_numbers_not_words(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        make_checkpoint(tmp_path, step)
    assert [path.name for path in run_folder.complete_checkpoints(tmp_path)] == [
        "checkpoint-9",
        "checkpoint-10",
        "checkpoint-100",
    ]


@pytest.mark.parametrize(("keep", "left"), [(None, [2, 4, 6, 8]), (1, [6, 8]), (2, [4, 6, 8]), (9, [2, 4, 6, 8])])
def test_rotation_counts_complete_checkpoints_alone(keep: int | None, left: list[int], tmp_path: Path) -> None:
    for step in (2, 4, 6):
        make_checkpoint(tmp_path, step)
    make_checkpoint(tmp_path, 8, complete=False)
    run_folder.rotate(tmp_path, keep)
    assert sorted(tmp_path.iterdir()) == [tmp_path / f"checkpoint-{step}" for step in left]


def test_rotation_takes_the_mark_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a checkpoint that is half removed when the process is killed does not count."""
    for step in (2, 4):
        make_checkpoint(tmp_path, step)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run_folder.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run_folder.rotate(tmp_path, 1)
    assert [path.name for path in run_folder.complete_checkpoints(tmp_path)] == ["checkpoint-4"]


def test_a_checkpoint_with_its_mark_is_not_removed(tmp_path: Path) -> None:
    complete, broken = make_checkpoint(tmp_path, 2), make_checkpoint(tmp_path, 4, complete=False)
    for checkpoint in (complete, broken, tmp_path / "checkpoint-6"):
        run_folder.remove_incomplete(checkpoint)
    assert complete.exists()
    assert not broken.exists()


def test_a_file_that_cannot_be_written_whole_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    run_folder.write_json(path, {"step": 1})
    with pytest.raises(TypeError):
        run_folder.write_json(path, {"step": object()})
    assert json.loads(path.read_text()) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", run_folder.FIXED_OPTIONS)
def test_options_that_a_resumed_run_keeps(name: str, tmp_path: Path) -> None:
    run_folder.describe(tmp_path, {**CONFIG, name: 1})
    with pytest.raises(RunFolderError, match=f"was started with {name}=1 and cannot go on with {name}=2"):
        run_folder.find_start(tmp_path, True, {**CONFIG, name: 2})


def test_an_option_that_an_older_run_does_not_name_was_off(tmp_path: Path) -> None:
    run_folder.describe(tmp_path, CONFIG)
    assert run_folder.find_start(tmp_path, True, {**CONFIG, "freeze_vision": False}) is None
    with pytest.raises(RunFolderError, match="was started with freeze_vision=None"):
        run_folder.find_start(tmp_path, True, {**CONFIG, "freeze_vision": True})


@pytest.mark.parametrize("name", ["pair_by", "split"])
def test_an_older_run_that_was_not_asked_how_its_pairs_are_read_may_answer(name: str, tmp_path: Path) -> None:
    """Its pairs are compared with those it began with, so an answer cannot change them."""
    run_folder.describe(tmp_path, {key: value for key, value in CONFIG.items() if key != name})
    assert run_folder.find_start(tmp_path, True, {**CONFIG, name: "none"}) is None


def test_changed_options_are_those_that_differ(tmp_path: Path) -> None:
    run_folder.describe(tmp_path, {**CONFIG, "resume": False, "images": ["a", "b"], "gone": 1})
    now = {**CONFIG, "resume": True, "images": ["a"], "beta": 0.1, "new": None}
    assert run_folder.changed_options(tmp_path, now) == {
        "beta": (0.04, 0.1),
        "gone": (1, None),
        "images": (["a", "b"], ["a"]),
    }


@pytest.mark.parametrize("text", ["", "a: [\n"])
def test_a_config_that_holds_nothing_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunFolderError, match=r"config.yaml holds no options"):
        run_folder.find_start(tmp_path, True, CONFIG)


def test_needed_options_are_asked_for_by_name(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    for text, reason in (
        ("images: []", "images: [], which must be a list"),
        ("seed: 1", "images: None, which must be a list"),
        ("images: [a]\niterations: 2.5", "iterations: 2.5, which must be a whole number above 0"),
    ):
        file.write_text(text)
        with pytest.raises(RunFolderError, match=re.escape(f"{file} has {reason}")):
            run_folder.read_config(tmp_path, images=list, iterations=int)


# ---------------------------------------------------------------------------------------------- what the command writes


@pytest.mark.parametrize("written", range(4))
def test_a_run_that_was_killed_while_it_was_described_begins_again(
    written: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder is a run only once it has all that says how to run it again."""
    write = run_folder._write_atomically

    def killed_after(path: Path, text: str) -> None:
        if len(list(tmp_path.iterdir())) == written:
            raise KeyboardInterrupt
        write(path, text)

    monkeypatch.setattr(run_folder, "_write_atomically", killed_after)
    with pytest.raises(KeyboardInterrupt):
        run_folder.describe(tmp_path, CONFIG)
    with pytest.raises(RunFolderError, match="no run to resume"):
        run_folder.find_start(tmp_path, True, CONFIG)
    assert run_folder.find_start(tmp_path, False, CONFIG) is None
    monkeypatch.undo()
    run_folder.describe(tmp_path, CONFIG)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "git.diff", "git.txt", "versions.txt"]


def test_config_parses_to_the_run_that_wrote_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = flags(
        output_dir=run,
        model_name_or_path=BENCH_MODEL,
        iterations=1,
        use_peft=True,
        lora_target_modules=["q_proj", "v_proj"],
    )
    main(words)
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert written["images"] == [str(DRAWN)]
    assert written["beta"] == 0.04, "defaults are written too"
    assert written["schedule"] == "cycle"
    assert written["lr_scheduler_type"] == "constant"
    assert not {"hub_token", *DERIVED} & written.keys()
    again = parse(["--config", str(run / "config.yaml")])
    assert resolved(*again) == written
    first = parse(words)
    for option in DERIVED:
        assert getattr(again[1], option) == getattr(first[1], option), option


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(f"images: {DRAWN}\nmodel_name_or_path: m\ncivilians: 3\nlearning_rate: 1e-3\nuse_cpu: true\n")
    game, args, model = parse(["--config", str(file), "--civilians", "2", "--output_dir", "x"])
    assert (game.images, game.civilians, args.learning_rate, model.model_name_or_path) == ([str(DRAWN)], 2, 1e-3, "m")


def test_code_and_versions_are_written(tmp_path: Path) -> None:
    run_folder.describe(tmp_path, CONFIG)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    if commit.returncode == 0:
        assert (tmp_path / "git.txt").read_text().startswith(commit.stdout.strip())
    assert (tmp_path / "git.diff").is_file()
    versions = (tmp_path / "versions.txt").read_text().splitlines()
    for package in ("torch", "transformers", "trl"):
        assert f"{package}=={metadata.version(package)}" in versions


def test_uncommitted_changes_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a repository of its own, with one committed file that was changed."""
    repository = tmp_path / "repository"
    module = repository / "src" / "run_folder.py"
    module.parent.mkdir(parents=True)
    module.write_text("first\n")
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *arguments], cwd=repository, check=True)
    module.write_text("second\n")
    monkeypatch.setattr(run_folder, "__file__", str(module))
    run_folder.describe(tmp_path / "run", CONFIG)
    assert "start" in (tmp_path / "run" / "git.txt").read_text()
    assert "M run_folder.py" in (tmp_path / "run" / "git.txt").read_text()
    assert "-first\n+second\n" in (tmp_path / "run" / "git.diff").read_text()


def test_without_git_the_run_still_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    run_folder.describe(tmp_path / "run", CONFIG)
    assert "git" in (tmp_path / "run" / "git.txt").read_text()
    assert (tmp_path / "run" / "config.yaml").is_file()


def test_names_of_earlier_versions_are_read_as_todays(tmp_path: Path) -> None:
    """Recorded results stay as they were written: metrics, figures of an evaluation, games."""
    file = tmp_path / "recorded.jsonl"
    former = {
        "clues/unreadable": 0.1,
        "figures": {"sight": [1, 0, 2], "votes/right_blind": [0, 0, 0], "truth/civilian/telling": [3, 3, 3]},
        "clues": [{"seat": 1, "reply": "I see it", "readable": True}],
    }
    run_folder.append_json_line(file, former)
    assert run_folder.read_json_lines(file, "clues/unparsed") == [
        {
            "clues/unparsed": 0.1,
            "figures": {
                "image_gain": [1, 0, 2],
                "votes/right_image_swapped": [0, 0, 0],
                "grounding/civilian/discriminative": [3, 3, 3],
            },
            "clues": [{"seat": 1, "completion": "I see it", "parsed": True}],
        }
    ]


GAME_OF_BEFORE = {
    "rules": {"n_civilians": 2, "n_rounds": 1, "n_votes": 2, "mask_share": 0.5, "max_clue_chars": 300},
    "clues": [{"seat": 1, "reply": "I see it", "readable": True, "token_ids": [1, 2]}],
}


def test_a_game_of_before_has_rules_of_today(tmp_path: Path) -> None:
    file = tmp_path / "step-000000.jsonl"
    run_folder.append_json_line(file, GAME_OF_BEFORE)
    (record,) = run_folder.read_json_lines(file)
    assert GameRules(**record["rules"]).n_players == 3
    assert record["clues"][0]["token_ids"] == [1, 2]


@pytest.mark.parametrize("name", sorted(run_folder.REMOVED_OPTIONS))
def test_an_option_that_is_a_constant_now(name: str, tmp_path: Path) -> None:
    """A run of before resumes with its value and is refused with another; nothing is said of what did not change."""
    for value, resumes in ((run_folder.REMOVED_OPTIONS[name], True), (7, False)):
        run = tmp_path / str(value)
        run_folder.describe(run, {"seed": 1, name: value})
        if resumes:
            assert run_folder.changed_options(run, {"seed": 1}) == {}
            assert run_folder.find_start(run, True, {"seed": 1}) is None
        else:
            with pytest.raises(run_folder.RunFolderError, match=rf"{name}=7 and cannot go on with {name}="):
                run_folder.find_start(run, True, {"seed": 1})


def test_what_another_machine_wrote_may_appear_late(tmp_path: Path) -> None:
    """As on a network file system."""
    late = threading.Timer(0.3, (tmp_path / "late").touch)
    late.start()
    assert run_folder.in_time((tmp_path / "late").exists, 30)
    late.join()
    assert not run_folder.in_time((tmp_path / "never").exists, 0)

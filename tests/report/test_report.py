"""The page of a run without a browser: what it holds, what is missing of a run that is not whole, what is escaped."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import re
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from tests.report_helpers import N_GAMES, OPTIONS, change_game, copy_of
from vision_zero.evaluate.clues.grounding import SceneIndex, said_in_record
from vision_zero.evaluate.win_rate.callback import LOGGED
from vision_zero.report import __main__ as command
from vision_zero.report.charts import NO_ARENA, build_charts
from vision_zero.report.games import Pictures, choose_games, judge_clues, read_games
from vision_zero.report.metrics_log import read_steps
from vision_zero.report.page import PARTS, json_in_html, make_report
from vision_zero.rollout.record import pairs_of, seen_images
from vision_zero.run_folder import RunFolderError, read_json_lines
from vision_zero.types import Role

WHOLE = {
    *(
        "accuracy",
        "na",
        "win-rate",
        "cross-play",
        "image_gain",
        "true",
        "discriminative",
        "copied",
        "rewards",
        "advantages",
    ),
    *("baselines", "vote-reward", "votes", "unparsed", "lengths", "kl", "entropy", "gradient", "loss", "rate"),
    *("gap", "time", "tokens"),
}


@pytest.fixture(scope="module")
def run(recorded_run: Path) -> Path:
    return recorded_run


def block(text: str, name: str) -> Any:
    found = re.findall(rf'<script type="application/json" id="{name}">(.*?)</script>', text, re.DOTALL)
    assert len(found) == 1
    return json.loads(found[0])


def data_of(run: Path, **options: Any) -> dict[str, Any]:
    data: dict[str, Any] = block(make_report(run, **options).html, "data")
    return data


def test_everything_of_a_whole_run_is_there(run: Path) -> None:
    report = make_report(run)
    data = block(report.html, "data")
    assert report.notes == []
    assert {chart["id"] for chart in data["charts"] if not chart["missing"]} == WHOLE
    assert [chart["id"] for chart in data["charts"] if chart["missing"]] == []
    assert len(data["games"]) == report.n_games == report.n_recorded == N_GAMES
    assert data["iterations"] == OPTIONS["iterations"]
    assert {one["reason"] for one in data["switches"]} == {"rule", "patience"}
    assert [one["model"] for one in data["evaluations"]] == ["the last checkpoint"]
    images = block(report.html, "images")
    assert len(images) == report.n_images == len(set(images)) == 2 * 6  # six pairs, original and edited, each once


def test_the_win_rate_comes_first_where_an_arena_was_played(run: Path, tmp_path: Path) -> None:
    data = data_of(run)
    lines = read_json_lines(run / "arena.jsonl")
    assert data["arena"] == [{"iteration": line["step"], "figures": line["figures"]} for line in lines]
    assert next(iter(data["headline"])) == "win_rate"
    assert data["chance"] == pytest.approx(1 / 3)  # two civilians and a spy
    assert data["charts"][0]["id"] == "win-rate"
    copied = copy_of(run, tmp_path / "copy")
    (copied / "arena.jsonl").unlink()
    data = data_of(copied)
    assert data["arena"] == []
    assert next(chart for chart in data["charts"] if not chart["missing"])["id"] == "accuracy"


def test_curves_are_the_files_numbers(run: Path) -> None:
    data = data_of(run)
    by_id = {chart["id"]: chart for chart in data["charts"]}
    lines = read_json_lines(run / "metrics.jsonl")
    accuracy = by_id["accuracy"]
    assert accuracy["x"] == [1, 2, 3, 4, 5, 6]
    assert accuracy["curves"][0]["values"] == [line["stage/accuracy"] for line in lines]
    assert accuracy["curves"][1]["style"] == "smoothed"
    assert accuracy["curves"][2]["values"] == [line["stage/accuracy_average"] for line in lines]
    assert [limit["value"] for limit in accuracy["limits"]] == [pytest.approx(1 / 3), 0.9, pytest.approx(0.6)]
    arena = read_json_lines(run / "arena.jsonl")
    win_rate = by_id["win-rate"]
    assert win_rate["x"] == [line["step"] for line in arena] == [0, 3, 6]
    curve = win_rate["curves"][0]
    shown = [list(point) for point in zip(curve["values"], curve["low"], curve["high"], strict=True)]
    assert shown == [line["figures"]["win_rate"] for line in arena]
    seconds = [[curve["values"][0] for curve in by_id["time"]["curves"] if curve["label"] != "arena"]]
    assert sum(seconds[0]) == pytest.approx(lines[0]["step_time"])


def test_games_are_the_records(run: Path) -> None:
    data = data_of(run)
    images = block(make_report(run).html, "images")
    records = read_games(run, [])
    pairs = pairs_of({"images": ["drawn:6"]}, {record["pair"] for record in records})
    scene_index = SceneIndex(pairs.values())
    for game, record in zip(data["games"], records, strict=True):
        assert game["iteration"] == record["step"] + 1
        assert [clue["clue"] for clue in game["clues"]] == [clue["clue"] for clue in record["clues"]]
        assert [vote["vote"] for vote in game["votes"]] == record["outcome"]
        assert game["rewards"] == record["clue_rewards"]
        right, most = record["outcome"].count(record["spy"]), max(map(record["outcome"].count, (1, 2, 3)))
        assert (game["outcome"] == "found") == (
            right == most > 0 and sum(record["outcome"].count(seat) == most for seat in (1, 2, 3)) == 1
        )
        judged = scene_index.judge_clues(record["pair"], said_in_record(record))
        assert ["true" in clue["marks"] for clue in game["clues"]] == [one.true == 1 for one in judged]
        assert ["copied" in clue["marks"] for clue in game["clues"]] == [one.copied == 1 for one in judged]
    shown = Image.open(io.BytesIO(base64.b64decode(images[data["games"][0]["spy_image"]].partition(",")[2])))
    seen = seen_images(records[0], pairs)[1]
    difference = [abs(a - b) for a, b in zip(shown.convert("RGB").tobytes(), seen.tobytes(), strict=True)]
    assert shown.size == seen.size
    assert sum(difference) / len(difference) < 8  # WebP


def test_shares_of_roles_are_those_of_evaluate_clues(run: Path) -> None:
    records = read_games(run, [])
    pairs = pairs_of({"images": ["drawn:6"]}, {record["pair"] for record in records})
    judged = judge_clues(records, pairs, lambda record: record["step"] + 1)
    scene_index = SceneIndex(pairs.values())
    first = [record for record in records if record["step"] == 0]
    groundings = [scene_index.judge(record["pair"], record["spy"], said_in_record(record)) for record in first]
    for role in Role:
        for name in ("true", "copied"):
            mean = sum(getattr(one[role], name) for one in groundings) / len(groundings)
            assert judged.shares[1][f"{role.value}/{name}"][0] == pytest.approx(mean)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda run: (run / "arena.jsonl").unlink(), NO_ARENA),
        (lambda run: (run / "metrics.jsonl").unlink(), "metrics.jsonl is not there"),
        (lambda run: [file.unlink() for file in (run / "games").iterdir()], "no games were recorded"),
        (lambda run: (run / "metrics.jsonl").open("a").write('{"step": 7, "lo'), "metrics.jsonl ends inside a line"),
        (lambda run: (run / "arena.jsonl").open("a").write("nonsense\n"), "arena.jsonl, line 4: not JSON"),
        (lambda run: (run / "games" / "step-000001.jsonl").open("a").write('{"ga'), "ends inside a line"),
        (lambda run: (run / "games" / "step-000001.jsonl").open("a").write("{}\n"), "line 7 is not a recorded game"),
        (lambda run: (run / "games" / "step-000001.jsonl").write_text("[\n"), "step-000001.jsonl, line 1: not JSON"),
        (lambda run: (run / "switches.jsonl").write_text("{}\n"), "switches.jsonl, line 1: has no 'iteration'"),
        (lambda run: (run / "evaluation.jsonl").write_text("{}\n"), "evaluation.jsonl, line 1: has no 'model'"),
        (lambda run: twice(run / "metrics.jsonl"), "metrics.jsonl has 6 steps twice"),
        (lambda run: edit_config(run, "drawn:6", "/no/such/folder"), "/no/such/folder"),
    ],
)
def test_a_run_that_is_not_whole_has_a_page_that_says_so(run: Path, tmp_path: Path, spoil: Any, said: str) -> None:
    broken = copy_of(run, tmp_path / "run")
    spoil(broken)
    out = tmp_path / "page.html"
    assert command.main([str(broken), "--out", str(out)]) == 0
    data = block(out.read_text("utf-8"), "data")
    reasons = [*data["notes"], *(chart["missing"] or "" for chart in data["charts"])]
    assert any(said in reason for reason in reasons), reasons


HUGE = 10**400
NONSENSE = (float("nan"), float("inf"), None, "x", [], {}, HUGE, -1.5, True)


def page_data(run: Path) -> dict[str, Any]:
    """Of the command itself, which must end well."""
    out = run / "page.html"
    assert command.main([str(run), "--out", str(out)]) == 0
    data: dict[str, Any] = block(out.read_text("utf-8"), "data")
    return data


def change_lines(file: Path, number: int, change: Any) -> None:
    lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    change(lines[number])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")


def without_games(run: Path, folder: Path) -> Path:
    """A copy whose page takes no time."""
    broken = copy_of(run, folder)
    shutil.rmtree(broken / "games")
    return broken


@pytest.mark.parametrize("value", NONSENSE)
def test_odd_numbers_of_the_log_are_not_drawn(run: Path, tmp_path: Path, value: Any) -> None:
    broken = without_games(run, tmp_path / "run")
    names = set(read_json_lines(run / "metrics.jsonl")[0]) - {"step", "stage/is_clue", "stage/accuracy"}
    change_lines(broken / "metrics.jsonl", 2, lambda line: line.update(dict.fromkeys(names, value)))
    data = page_data(broken)
    curve = next(chart for chart in data["charts"] if chart["id"] == "loss")["curves"][0]
    assert curve["values"][2] == (value if value == -1.5 else None)
    assert curve["values"][1] is not None
    done = dict(data["facts"])["iterations"]
    assert done.endswith(" s" if value == -1.5 else "and 1 of unknown time")


def test_a_step_that_is_none_is_named(run: Path, tmp_path: Path) -> None:
    for value in NONSENSE:
        (tmp_path / "lines.jsonl").write_text(json.dumps({"step": value}) + "\n")
        with pytest.raises(RunFolderError, match="not the number of a step"):
            read_steps(tmp_path / "lines.jsonl")
    broken = without_games(run, tmp_path / "run")
    change_lines(broken / "metrics.jsonl", 1, lambda line: line.update(step=[]))
    change_lines(broken / "arena.jsonl", 1, lambda line: line.update(step=HUGE))
    notes = page_data(broken)["notes"]
    for file in ("metrics.jsonl", "arena.jsonl"):
        assert any(f"{file}, step " in note and "not the number of a step" in note for note in notes)


@pytest.mark.parametrize("value", [None, {}, {"win_rate": [1, 2]}])
@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("arena.jsonl", "figures"),
        ("evaluation.jsonl", "figures"),
        ("evaluation.jsonl", "start"),
        ("switches.jsonl", "na_average"),
    ],
)
def test_what_the_pages_scripts_could_not_show_is_named(
    run: Path, tmp_path: Path, file: str, name: str, value: Any
) -> None:
    broken = without_games(run, tmp_path / "run")
    change_lines(broken / file, 0, lambda line: line.update({name: value}))
    notes = page_data(broken)["notes"]
    empty = value == {} and file != "switches.jsonl"  # no figures are none that is wrong
    assert any("not the numbers of a run" in note for note in notes) is not empty, notes


def spoilt(name: str, *values: Any) -> list[Any]:
    """`name` is a path in the record, as clues/0/seat."""

    def change(value: Any, record: Any) -> None:
        *path, last = (int(part) if part.isdigit() else part for part in name.split("/"))
        for part in path:
            record = record[part]
        record[last] = value

    return [pytest.param(partial(change, value), id=f"{name}={str(value)[:12]}") for value in values]


@pytest.mark.parametrize(
    "change",
    [
        *spoilt("step", None, float("nan"), float("inf"), "x", [], HUGE, -1, 1.0, True),
        *spoilt("game", None, []),
        *spoilt("seed", None, "x"),
        *spoilt("pair", [], None, 5),
        *spoilt("image", None, []),
        *spoilt("edited", 5, []),
        *spoilt("domain", {}),
        *spoilt("stage", None),
        *spoilt("failed_edit", []),
        *spoilt("past", "x", 5, [], {}, {"role": "voter"}, {"role": 1, "model": "start"}),
        *spoilt("spy", None, 0, 9, "1", 1.0),
        *spoilt("spy_view", None, "x", []),
        *spoilt("rules", None, [], {"n_civilians": "x"}, {"n_civilians": 2, "unknown": 1}, {"n_civilians": HUGE}),
        *spoilt("outcome", None, "x", {}, [[]], [99], [1.0]),
        *spoilt("clue_rewards", None, [], ["x", "x", "x"], {}),
        *spoilt("clue_advantages", None, [], [None, None, None]),
        *spoilt("clues", None, 5, [5], ["x"], [{}], {"a": 1}),
        *spoilt("clues/0/seat", None, "x", []),
        *spoilt("clues/0/round", None),
        *spoilt("clues/0/clue", None, 5, []),
        *spoilt("clues/0/completion", None),
        *spoilt("clues/0/prompt", None, 5, []),
        *spoilt("clues/0/parsed", None, "x"),
        *spoilt("clues/0/token_ids", None, 5),
        *spoilt("votes", None, 5, [None], [{}]),
        *spoilt("votes/0/vote", "x", 99, [], 1.5),
        *spoilt("votes/0/reward", None, "x", []),
        *spoilt("votes/0/completion", 5),
        *spoilt("votes/0/seat", None),
    ],
)
def test_a_game_with_an_odd_value_is_left_out_and_named(run: Path, tmp_path: Path, change: Any) -> None:
    games = tmp_path / "games"
    games.mkdir()
    shutil.copy(run / "games" / "step-000001.jsonl", games)
    change_lines(games / "step-000001.jsonl", 1, change)
    recorded = read_games(tmp_path, notes := list[str]())
    assert len(recorded) == OPTIONS["games_per_iteration"] - 1
    (note,) = notes
    assert "line 2 is not a recorded game" in note
    assert len(note) < 700 + len(str(tmp_path))


def test_games_that_cannot_be_pictured_are_on_the_page(run: Path, tmp_path: Path) -> None:
    """Whatever the image is called; and a reward that is no number is shown as none."""
    broken = copy_of(run, tmp_path / "run")
    (broken / "games" / "step-1.jsonl").mkdir()
    file = broken / "games" / "step-000001.jsonl"
    change_lines(file, 0, lambda game: game.update(pair="gone", image="a\0b", edited="c"))
    change_lines(file, 1, lambda game: game.update(pair="gone too", edited=None, spy_view="edited"))
    change_lines(file, 2, lambda game: game["votes"][0].update(reward=float("nan")))
    change_lines(file, 3, lambda game: game.update(step=None))
    data = page_data(broken)
    assert data["recorded"] == N_GAMES - 1
    assert sum(game["no_image"] is not None for game in data["games"]) == 2
    assert any("step-1.jsonl" in note and "directory" in note for note in data["notes"])
    assert any("line 4 is not a recorded game (ValueError: step is None)" in note for note in data["notes"])
    assert any(vote["reward"] is None for game in data["games"] for vote in game["votes"])


@pytest.mark.parametrize(
    "odd",
    [
        *({"images": images} for images in (5, None, "x", [5], [None], {"a": 1}, True)),
        *({"scenes_dir": value} for value in (7, [7], {"a": 1})),
        *({"columns": value} for value in (7, [1], {"image": 5}, "x")),
        {"images": ["data/photos"], "scenes_dir": 7},
        {"acc_up": HUGE, "err_up": "x", "model_name_or_path": [], "schedule": {}},
    ],
)
def test_odd_options_of_a_run(run: Path, tmp_path: Path, odd: dict[str, Any]) -> None:
    broken = copy_of(run, tmp_path / "run")
    for file in sorted((broken / "games").iterdir())[1:]:
        file.unlink()
    config = yaml.safe_load((broken / "config.yaml").read_text())
    (broken / "config.yaml").write_text(yaml.safe_dump({**config, **odd}))
    data = page_data(broken)
    assert data["recorded"] == OPTIONS["games_per_iteration"]
    if "acc_up" not in odd:
        assert any("images" in note for note in data["notes"]) or not odd.get("images", True), data["notes"]


def twice(file: Path) -> None:
    file.write_text(file.read_text() * 2)


def edit_config(run: Path, old: str, new: str) -> None:
    config = (run / "config.yaml").read_text()
    assert old in config
    (run / "config.yaml").write_text(config.replace(old, new))


def test_a_run_that_has_only_begun(run: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text((run / "config.yaml").read_text())
    data = data_of(tmp_path)
    assert data["games"] == []
    assert all(chart["missing"] for chart in data["charts"])


def test_what_is_refused(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([str(tmp_path)]) == 1
    assert "is not a run folder" in capsys.readouterr().err
    assert command.main([str(run), "--evaluation", str(tmp_path / "none.jsonl")]) == 1
    assert "none.jsonl: there is no such file" in capsys.readouterr().err
    assert command.main([str(run), "--out", "/proc/none/page.html"]) == 1
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        command.main([str(run), "--image_size", "3"])
    assert "must be at least 16" in capsys.readouterr().err
    for value in ("many", "-3", "0", "true", "1.5"):
        (tmp_path / "config.yaml").write_text(f"iterations: {value}\n")
        with pytest.raises(RunFolderError, match="must be a whole number above 0"):
            make_report(tmp_path)
    for text in ("iterations: 2026-13-45\n", "[" * 1500):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(RunFolderError, match="holds no options"):
            make_report(tmp_path)


def test_a_second_run_that_is_refused(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "again").symlink_to(run)
    (tmp_path / "empty").mkdir()
    for other, said in (("again", "is the run itself"), ("empty", "is not a run folder: it has no config.yaml")):
        assert command.main([str(run), "--against", str(tmp_path / other), "--out", str(tmp_path / "page.html")]) == 1
        error = capsys.readouterr().err
        assert f"{tmp_path / other}" in error
        assert said in error
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(SystemExit):
        command.main([str(run), "--against", str(run), "--summary"])
    assert "--against is an option of the page" in capsys.readouterr().err


def test_the_page_of_two_runs_leaves_that_of_one_alone(run: Path, tmp_path: Path) -> None:
    one, other = without_games(run, tmp_path / "one"), without_games(run, tmp_path / "other")
    (other / "arena.jsonl").write_text("nonsense\n")
    assert command.main([str(one), "--against", str(other)]) == 0
    assert [file.name for file in one.glob("*.html")] == ["against.html"]
    data = block((one / "against.html").read_text("utf-8"), "data")
    assert data["against"]["path"] == str(other.resolve())
    assert any("arena.jsonl, line 1: not JSON" in note for note in data["against"]["notes"])
    assert not any("arena.jsonl" in note for note in data["notes"])
    assert any(f"{other}: " in note and "not JSON" in note for note in make_report(one, against=other).notes)


def test_chance_is_that_of_the_runs_rules() -> None:
    """Civilians who vote know that they are not the spy; an observer does not know who they are."""
    lines = [{"step": 1, "stage/is_clue": 0.0, "stage/accuracy": 0.5, "votes/right": 0.5, "reward/vote": 0.1}]
    switch = {"schedule": "iterative", "acc_up": 0.9, "err_up": 0.4}

    def limits(**options: Any) -> dict[str, dict[str, float | str]]:
        charts = build_charts(lines, lines, [], {}, options, 1)
        return {chart.id: {limit.label: limit.value for limit in chart.limits} for chart in charts}

    found = limits(civilians=4, voter="observer", na_reward=-0.5, **switch)
    assert found["votes"] == {"chance of a right vote": pytest.approx(0.2)}
    assert found["vote-reward"] == {"chance": pytest.approx(-0.6), "N/A": -0.5}  # docs/runs.md says the same
    assert found["accuracy"] == {
        "chance of one vote": pytest.approx(0.2),
        "decision → clue from": 0.9,
        "clue → decision down to": pytest.approx(0.6),
    }
    found = limits(civilians=4, voter="civilian", schedule="cycle", acc_up=0.9)
    assert found["votes"] == {"chance of a right vote": pytest.approx(0.25)}
    assert found["accuracy"] == {"chance of one vote": pytest.approx(0.25)}
    assert limits()["votes"] == limits(civilians="x")["votes"] == {}


def test_prompts_are_those_of_the_records(run: Path, tmp_path: Path) -> None:
    """Each is held once, however often it was given; and what a completion holds is said as it is."""
    changed = copy_of(run, tmp_path / "run")
    file = min((changed / "games").glob("step-*.jsonl"))
    clues = ("I see two. \\boxed{red cube}", "\\boxed{red cube}", "red cube")
    past = {"role": "voter", "model": "start"}
    for number, completion in enumerate(clues):
        change_lines(file, 0, lambda game, k=number, said=completion: game["clues"][k].update(completion=said))
    change_lines(file, 0, lambda game: game.update(past=past))
    data = data_of(changed)
    records = [record for file in sorted((changed / "games").iterdir()) for record in read_json_lines(file)]
    for game, record in zip(data["games"], records, strict=True):
        for turns in ("clues", "votes"):
            prompts = [[data["lines"][line] for line in data["prompts"][said["prompt"]]] for said in game[turns]]
            assert ["\n".join(lines) for lines in prompts] == [said["prompt"] for said in record[turns]]
    assert len(data["lines"]) == len(set(data["lines"]))
    assert [clue["kind"] for clue in data["games"][0]["clues"][:3]] == ["reasoned", "answer", "unboxed"]
    assert [game["past"] for game in data["games"][:2]] == [past, None]


HOSTILE = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> & \u2028 \ud800 ]]> {{x}} $data ${title}"


def test_nothing_a_model_says_leaves_its_place(run: Path, tmp_path: Path) -> None:
    """Read by an HTML parser: the scripts of the page are those of its files, and the text comes back as it was."""
    hostile = copy_of(run, tmp_path / "a <b>run</b> & more")
    change_game(hostile, clue=HOSTILE, completion=HOSTILE)
    text = make_report(hostile).html
    shown = block(text, "data")["games"][0]["clues"][0]["clue"]
    assert shown == HOSTILE.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    assert text.count("<script") == text.count("</script>") == 3
    assert "<!--" not in text
    assert "onerror=alert(2)>" not in text
    assert "<b>run" not in text


def test_policy_allows_the_page_itself_and_nothing_else(run: Path) -> None:
    text = make_report(run).html
    policy = html.unescape(re.findall(r'Content-Security-Policy" content="([^"]*)"', text)[0])
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["img-src"] == "data:"
    for name, pattern in (("script-src", r"<script>(.*?)</script>"), ("style-src", r"<style>(.*?)</style>")):
        (own,) = re.findall(pattern, text, re.DOTALL)
        assert rules[name] == f"'sha256-{base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()}'"
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", text)


def test_a_reward_of_single_completions_is_drawn(run: Path, tmp_path: Path) -> None:
    changed = copy_of(run, tmp_path / "run")
    lines = [json.loads(line) for line in (changed / "metrics.jsonl").read_text().splitlines()]
    rewarded = [{**line, "reward/brevity": 0.5} for line in lines]
    (changed / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rewarded))
    charts = {chart["id"]: chart for chart in data_of(changed)["charts"]}
    assert [curve["label"] for curve in charts["extra-rewards"]["curves"]] == ["brevity"]
    assert "extra-rewards" not in {chart["id"] for chart in data_of(run)["charts"]}


def test_the_same_run_has_the_same_page(run: Path) -> None:
    assert make_report(run).html == make_report(run).html


def test_numbers_that_are_none_become_null() -> None:
    assert json.loads(json_in_html({"a": [float("nan"), float("-inf"), 1.5, True, None]})) == {
        "a": [None, None, 1.5, True, None]
    }


def test_of_many_games_whole_pairs_are_chosen() -> None:
    games = [{"pair": f"p{number % 10}", "step": number // 10} for number in range(100)]
    assert choose_games(games, 100) == list(range(100))
    chosen = [games[number] for number in choose_games(games, 35)]
    assert len(chosen) == 35
    assert [one["step"] for one in chosen] == sorted(one["step"] for one in chosen)
    sizes = sorted(sum(one["pair"] == f"p{k}" for one in chosen) for k in range(10))
    assert sizes == [0] * 6 + [5, 10, 10, 10]
    assert choose_games([{"pair": "p", "step": step} for step in range(100)], 4) == [0, 25, 50, 75]
    assert choose_games(games, 0) == []


def test_pictures_are_reduced_and_kept_once() -> None:
    pictures = Pictures(longest=100)
    large = Image.linear_gradient("L").resize((400, 200)).convert("RGB")
    assert [pictures.add(large), pictures.add(large.copy()), pictures.add(large.rotate(180))] == [0, 0, 1]
    shown = Image.open(io.BytesIO(base64.b64decode(pictures.uris[0].partition(",")[2])))
    assert (shown.size, shown.format) == ((100, 50), "WEBP")
    assert large.size == (400, 200)


def test_several_updates_per_iteration_share_its_place() -> None:
    """Games stand on the line of the first update and are drawn at their iteration's end."""
    lines: list[dict[str, Any]] = []
    for step in range(1, 7):
        lines.append({"step": step, "loss": float(step)})
        if step % 3 == 1:
            lines[-1] |= {"stage/is_clue": 0.0, "stage/accuracy": 0.5}
    iterations = [line for line in lines if "stage/is_clue" in line]
    by_id = {chart.id: chart for chart in build_charts(iterations, lines, [], {}, {}, 3)}
    assert by_id["accuracy"].x == [1, 2]
    assert by_id["loss"].x == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3, 5 / 3, 2])
    assert by_id["accuracy"].limits == []


def test_the_metrics_page_explains_every_figure_of_an_arena_and_says_what_to_do(run: Path) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "runs.md").read_text()
    figures = set(read_json_lines(run / "arena.jsonl")[-1]["figures"])
    own = re.findall(r"^\| figure `([\w/]+)`", page, re.MULTILINE)
    assert len(own) == len(set(own))
    assert {*own, *LOGGED} == figures
    rows = re.findall(r"^\| (?:figure )?`[\w/]+`.*$", page, re.MULTILINE)
    assert len(rows) > 80
    for row in rows:
        name, *words = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
        assert len(words) == 3, name
        assert all(words), name


def test_the_package_says_where_its_library_is_from() -> None:
    folder = Path(command.__file__).parent / "static" / "uplot"
    assert (folder / "LICENSE").read_text().startswith("The MIT License")
    assert "v1.6.32" in (folder / "uPlot.iife.min.js").read_text()[:80]
    assert "uPlot 1.6.32" in (folder / "SOURCE.md").read_text()


def test_no_script_and_no_style_of_the_page_ends_its_own_element() -> None:
    files = [*PARTS["scripts"], *PARTS["styles"]]
    assert files
    for name in files:
        text = Path(command.__file__).parent.joinpath("static", name).read_text("utf-8")
        assert "</s" not in text.lower().replace(" ", ""), name

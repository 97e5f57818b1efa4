"""Read the charts of a folder with a vision-language model and write their tables as CSV.

    python run_scripts/read_charts.py CHARTQA/png --model Qwen/Qwen2.5-VL-7B-Instruct --out tables
    python -m vision_zero.make_data charts --tables tables --out pairs

The second command edits and draws the tables, as the paper does. A completion that does not parse as a table is counted
and kept beside the tables; no table is made up for it.
"""

import argparse
import csv
import io
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from vision_zero.config.game import add_options, beside
from vision_zero.data.folders import is_image_name
from vision_zero.data.pairs import load_pairs
from vision_zero.game.spy_game import deal, turn_seed
from vision_zero.make_data.charts.tables import SourceTable, TableError, parse_csv
from vision_zero.make_data.maker import MakerError
from vision_zero.make_data.output import write_whole
from vision_zero.rollout.game_images import GameImage
from vision_zero.rollout.load_policy import Loading, ModelPlayer, load_player
from vision_zero.rollout.policy import Policy, TokenLimits, TurnRequest
from vision_zero.rollout.sampling import Sampling
from vision_zero.rollout.stopping import end_with_reader
from vision_zero.run_folder import append_json_line, read_json_lines
from vision_zero.types import GameRules, ImagePair, Prompt, Turn

PROMPT = Path(__file__).with_suffix(".txt").read_text("utf-8").rstrip("\n")
UNREADABLE = "unreadable.jsonl"


def read_completion(completion: str, name: str) -> SourceTable:
    """Parse a completion: CSV, fenced or not, or a Markdown table. Raises TableError for anything else."""
    text = completion.replace("\r\n", "\n").strip()
    if fenced := re.search(r"```[a-zA-Z]*[ \t]*\n(.*?)(?:```|\Z)", text, re.DOTALL):
        text = fenced[1].strip()
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    if lines and all(line.startswith("|") for line in lines):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
        rows = [row for row in rows if not all(re.fullmatch(r":?-+:?", cell) for cell in row)]
        text = _as_csv(rows)
    table = parse_csv(text, name)
    if any(value is None for column in table.values for value in column):
        raise TableError("a value is missing")
    return table


def _as_csv(rows: Sequence[Sequence[str]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def table_csv(table: SourceTable) -> str:
    """The table as a CSV text that `parse_csv` reads back."""
    header = [table.row_name, *table.series]
    pairs = zip(table.values, table.units, strict=True)
    columns = [[_number(value, unit) for value in column] for column, unit in pairs]
    return _as_csv([header, *zip(table.rows, *columns, strict=True)])


def _number(value: float | None, unit: str) -> str:
    assert value is not None  # `read_completion` takes no table with a gap
    text = repr(value).removesuffix(".0")
    if unit == "%":
        return f"{text}%"
    return text if not unit else f"{'-' if value < 0 else ''}{unit}{text.removeprefix('-')}"


def read_charts(
    pairs: Sequence[ImagePair], policy: Policy, *, max_tokens: int = 1024, seed: int = 0, batch: int = 8
) -> Iterator[dict[str, str]]:
    """Ask `policy` for the table of each image, `batch` at a time: completions by id. Raises BadImageError."""
    token_limits = TokenLimits(0, max_tokens)
    for start in range(0, len(pairs), batch):
        some = pairs[start : start + batch]
        completions = policy.answer([_request(start + i, pair, token_limits, seed) for i, pair in enumerate(some)])
        yield {pair.id: completion.text for pair, completion in zip(some, completions, strict=True)}


def _request(index: int, pair: ImagePair, token_limits: TokenLimits, seed: int) -> TurnRequest:
    """The request about one image: policies take turns of games, so it is a turn of a game that is not played."""
    game = deal(index, seed, replace(pair, edited=None), GameRules())
    turn = Turn(index, "decision", 0, 0, 0)
    image = GameImage(f"{pair.id}/original", pair.image.open())
    return TurnRequest(game, turn, Prompt("civilian", PROMPT), image, turn_seed(seed, turn), token_limits)


@dataclass(frozen=True)
class TablesFolder:
    """Output folder: NAME.csv for a chart that was parsed; else a line of UNREADABLE with the reason and completion."""

    folder: Path

    def unreadable(self) -> dict[str, str]:
        """Reasons by id, of all runs, without an unfinished last line. Raises RunFolderError for a damaged file."""
        lines = read_json_lines(self.folder / UNREADABLE, "id", "reason")
        return {str(line["id"]): str(line["reason"]) for line in lines}

    def missing(self, pairs: Sequence[ImagePair]) -> list[ImagePair]:
        """The charts without a result. Raises ValueError for two that would have the same file."""
        owners: dict[Path, str] = {}
        for pair in pairs:
            path = self.csv_of(pair.id)
            if Path(pair.id).is_absolute() or ".." in Path(pair.id).parts:
                raise ValueError(f"the chart {pair.id!r} has a name that leads out of {self.folder}")
            if path in owners:
                raise ValueError(f"{owners[path]} and {pair.id} would both be {path}; rename one")
            owners[path] = pair.id
        unreadable = self.unreadable()
        return [pair for pair in pairs if pair.id not in unreadable and not self.csv_of(pair.id).is_file()]

    def csv_of(self, name: str) -> Path:
        """ChartQA's naming: `tables/41699051005347.csv` of `png/41699051005347.png`."""
        stem = os.path.splitext(name)[0] if is_image_name(name) else name
        return self.folder / f"{stem}.csv"

    def write(self, completions: Mapping[str, str]) -> None:
        for name, completion in completions.items():
            try:
                table = read_completion(completion, name)
            except TableError as error:
                record = {"id": name, "reason": str(error), "completion": completion}
                append_json_line(self.folder / UNREADABLE, record)
                continue
            path = self.csv_of(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, table_csv(table).encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 1 for a bad option, model or image, or if no chart was parsed."""
    args = parse(arguments)
    tables = TablesFolder(args.out)
    try:
        pairs = list(load_pairs(str(args.charts), pair_by=args.pair_by, dataset_split=args.split))[: args.limit]
        args.out.mkdir(parents=True, exist_ok=True)
        missing = tables.missing(pairs)
        if missing:
            policy = load_policy(args)
            with tqdm(total=len(pairs), initial=len(pairs) - len(missing), unit="chart") as bar:
                options = {"max_tokens": args.max_tokens, "seed": args.seed, "batch": args.batch}
                for completions in read_charts(missing, policy, **options):
                    tables.write(completions)
                    policy.forget()  # no image is shown twice
                    bar.update(len(completions))
    except (MakerError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return report(tables, pairs)


def report(tables: TablesFolder, pairs: Sequence[ImagePair]) -> int:
    unreadable = tables.unreadable()
    reasons = Counter(unreadable[pair.id] for pair in pairs if pair.id in unreadable)
    n_read = sum(tables.csv_of(pair.id).is_file() for pair in pairs)
    print(f"{n_read} of {len(pairs)} charts read; tables in {tables.folder}")
    for reason, n in reasons.most_common():
        print(f"unreadable: {n} × {reason}")
    if reasons:
        print(f"their completions are in {tables.folder / UNREADABLE}; remove its lines to ask again")
    return 0 if n_read else 1


def load_policy(args: argparse.Namespace) -> ModelPlayer:
    """Raises ValueError or OSError, which name the model, if it cannot be loaded."""
    loading = Loading(
        Sampling(temperature=args.temperature), args.batch, args.min_pixels, args.max_pixels, use_cpu=args.use_cpu
    )
    return load_player(args.model, loading)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python run_scripts/read_charts.py", description="Read the tables of charts with a model."
    )
    add_options(parser, beside(__file__))
    return parser.parse_args(arguments)


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main())

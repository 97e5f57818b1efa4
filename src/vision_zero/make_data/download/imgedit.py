"""Reader of ImgEdit (arXiv 2505.20275): paths in Parquet/PART.parquet, images in tars that are split into parts.

Parquet/remove_part5.parquet      {"input_images": [PATH], "output_images": [PATH], "prompt"}
Singleturn/NAME.tar.split.000     the beginning of a tar that holds those paths; NAME.tar if it is not cut
"""

import glob
import re
import tarfile
from collections.abc import Generator, Iterator, Mapping, Sequence, Set
from contextlib import closing
from pathlib import PurePosixPath
from typing import IO, cast

from vision_zero.data.errors import PairSourceError, shorten
from vision_zero.make_data.download.sets import Candidate, Files, TooLargeError, check_end, pair_candidate, read_bounded

_PART = re.compile(r"(?P<stem>.+)\.tar(?:\.split\.(?P<number>\d+))?")


def imgedit_candidates(files: Files, part: str | None, archives: str | None) -> Iterator[Candidate]:
    """The single-turn pairs of one file of Parquet/ (`part`, as `remove_part5`), in the order of the tar archives.

    The archives are those of Singleturn/ whose name begins as the parquet's paths or the part do, or as `archives`
    does; one that is split into .tar.split.NNN is read part by part, each fetched when it is reached.
    """
    paths = files.names()
    parts = [PurePosixPath(path).stem for path in paths if path.startswith("Parquet/") and path.endswith(".parquet")]
    if part not in parts:
        raise PairSourceError(f"{files.place}: name a --part, one of {', '.join(parts) or '(no file in Parquet/)'}")
    rows, n_others = _imgedit_rows(files, f"Parquet/{part}.parquet")
    roots = {before.split("/")[0] for before in rows}
    chosen = _imgedit_archives(paths, archives or part, set() if archives else roots)
    if not chosen:
        stems = sorted({match["stem"] for path in paths if (match := _archive(path)) is not None})
        raise PairSourceError(
            f"{files.place}: no archive in Singleturn/ is called as {part} or {shorten(sorted(roots))}; "
            f"name one with --archives: {', '.join(stems) or 'there is none'}"
        )
    yield from _imgedit_pairs(files, chosen, rows, n_others)


def _imgedit_rows(files: Files, path: str) -> tuple[dict[str, tuple[str, str]], int]:
    """{path of the original: (path of the result, instruction)}, and the number of rows that are not one pair."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(files.folder([glob.escape(path)]) / path)
    missing = {"input_images", "output_images"} - set(table.column_names)
    if missing:
        raise PairSourceError(
            f"{files.place}: {path} has the columns {', '.join(table.column_names)}, not {', '.join(sorted(missing))}; "
            "sets of several turns are not read"
        )
    rows: dict[str, tuple[str, str]] = {}
    n_others = 0
    for row in table.to_pylist():
        before, after = row["input_images"] or [], row["output_images"] or []
        if len(before) == len(after) == 1 and before[0] not in rows:
            rows[before[0]] = (after[0], str(row.get("prompt") or ""))
        else:
            n_others += 1
    return rows, n_others


def _archive(path: str) -> re.Match[str] | None:
    return _PART.fullmatch(PurePosixPath(path).name) if path.startswith("Singleturn/") else None


def _imgedit_archives(paths: Sequence[str], prefix: str, roots: set[str]) -> dict[str, list[str]]:
    """Archive -> its parts in order. Raises PairSourceError for one of which a part is missing before another."""
    begins = re.compile(rf"(results_)?{re.escape(prefix.removeprefix('results_'))}(?!\d)")  # part1 is not part10
    found: dict[str, list[str]] = {}
    for path in paths:
        match = _archive(path)
        if match is not None and ((stem := match["stem"]) in roots or begins.match(stem)):
            parts = found.setdefault(stem, [])
            if match["number"] is not None and int(match["number"]) != len(parts):
                raise PairSourceError(f"{path}: part {len(parts)} of {stem}.tar is missing before it")
            parts.append(path)
    return found


def _imgedit_pairs(
    files: Files, archives: Mapping[str, Sequence[str]], rows: Mapping[str, tuple[str, str]], n_others: int
) -> Iterator[Candidate]:
    partner = {after: before for before, (after, _) in rows.items()}
    waiting: dict[str, dict[str, bytes]] = {}
    missing = {before: f"{number:07d}" for number, before in enumerate(rows)}
    for name, parts in archives.items():
        for path, data in _stream_tar(files, name, parts, rows.keys() | partner.keys()):
            before = path if path in rows else partner[path]
            if before not in missing:
                continue
            images = waiting.setdefault(before, {})
            images[path] = data
            after, prompt = rows[before]
            if before in images and after in images:
                del waiting[before]
                described = {"prompt": prompt, "path": before}
                yield pair_candidate(missing.pop(before), images[before], images[after], described)
    for pair_id in missing.values():
        yield Candidate(pair_id, problem="an image is not in the archives")
    for number in range(n_others):
        yield Candidate(f"other_{number}", problem="the row is not one image and its edit, or repeats one")


def _stream_tar(files: Files, name: str, parts: Sequence[str], wanted: Set[str]) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the wanted files of a tar, which may be split into parts, in its order."""
    try:
        with (
            closing(_opened(files, parts)) as streams,
            tarfile.open(fileobj=cast("IO[bytes]", _Joined(streams)), mode="r|*") as archive,
        ):
            for member in archive:
                path = member.name.removeprefix("./")
                path = path if path in wanted else PurePosixPath(path).name  # some parquets give names alone
                content = archive.extractfile(member) if path in wanted else None
                if content is not None:
                    yield path, read_bounded(content, path)
            check_end(archive)
    except (tarfile.TarError, EOFError, TooLargeError) as error:
        raise PairSourceError(
            f"{files.place}: {name}.tar is damaged or lacks a part ({len(parts)} found): {error}"
        ) from error


def _opened(files: Files, paths: Sequence[str]) -> Generator[IO[bytes]]:
    for path in paths:
        with open(files.folder([glob.escape(path)]) / path, "rb") as stream:
            yield stream


class _Joined:
    def __init__(self, streams: Iterator[IO[bytes]]) -> None:
        self._streams, self._stream = streams, next(streams, None)

    def read(self, size: int) -> bytes:
        data = b""
        while self._stream is not None and len(data) < size:
            piece = self._stream.read(size - len(data))
            data += piece
            if not piece:
                self._stream = next(self._streams, None)
        return data

"""Published sets: their names on the Hub, their layouts, and the candidate pairs that they hold.

Names and layouts are facts of the date in sets.yaml; a name that is gone is an error and never replaced by another
set. An error of one candidate is its `problem`; an error of the whole set is raised.
"""

import json
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from huggingface_hub import list_repo_files, snapshot_download

from vision_zero.config.game import beside
from vision_zero.data.errors import LFS_ADVICE, PairSourceError, is_lfs_pointer, shorten
from vision_zero.data.folders import is_image_name, walk
from vision_zero.data.hf_datasets import KNOWN_COLUMNS
from vision_zero.data.image_files import IMAGE_EXTENSIONS
from vision_zero.types import Domain

Layout = Literal["table", "pairs", "chartqa", "imgedit"]

MAX_IMAGE_BYTES, MAX_TEXT_BYTES = 256 << 20, 16 << 20
"""Most bytes of an image, as many as 80 million RGB pixels have, and of its description or table."""

_ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")
_NAMED = (*_ARCHIVES, *IMAGE_EXTENSIONS, ".json", ".csv")
_SAFE_NAME = re.compile(r"\w[\w.-]*")
_IMAGES = "|".join(extension[1:] for extension in sorted(IMAGE_EXTENSIONS))
_PAIR = re.compile(rf"(?:.*/)?([^/]+)_(?:(original|modified)\.(?i:{_IMAGES})|(comparison)\.(?i:json))", re.DOTALL)
_SIGNS = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"GIF8": ".gif", b"II*\0": ".tif", b"MM\0*": ".tif", b"BM": ".bmp"}


@dataclass(frozen=True)
class PublishedSet:
    """A set on the Hub.

    `table`: rows with images in columns. `pairs`: NAME_original and NAME_modified images with NAME_comparison.json or
    without, in folders or archives. `chartqa`: SPLIT/png and SPLIT/tables in an archive. `imgedit`: paths in Parquet/,
    images in Singleturn/, in tar archives that may be cut into parts.
    """

    repo: str
    layout: Layout = "table"
    domain: Domain = "photos"
    split: str = "train"
    columns: Sequence[str] | None = None


SETS: Mapping[str, PublishedSet] = {name: PublishedSet(**fields) for name, fields in beside(__file__).items()}


@dataclass(frozen=True)
class Candidate:
    """A pair of a set: `files` by their paths in the output folder; `image` and `edited` are those of the images."""

    id: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    image: str = ""
    edited: str | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    problem: str | None = None


def pair_candidate(pair_id: str, image: bytes, edited: bytes, meta: Mapping[str, Any]) -> Candidate:
    """A candidate of encoded images, kept as they are. The bytes give the extension, as tables rarely name it."""
    first, second = f"images/{pair_id}_original{_extension(image)}", f"images/{pair_id}_modified{_extension(edited)}"
    return Candidate(pair_id, {first: image, second: edited}, first, second, meta)


class TooLargeError(ValueError):
    """A file in an archive that is larger than any image: a candidate's problem."""


def _extension(data: bytes) -> str:
    kind = next((kind for sign, kind in _SIGNS.items() if data.startswith(sign)), "")
    return kind or (".webp" if data[8:12] == b"WEBP" else ".avif" if data[4:8] == b"ftyp" else ".png")


@dataclass(frozen=True)
class Files:
    """Files of a set: in the folder `source`, or on the Hub, whose client fetches them into its cache."""

    repo: str
    revision: str | None
    source: Path | None

    @property
    def place(self) -> str:
        return f"the Hub's data set {self.repo}" if self.source is None else str(self.source)

    def names(self) -> list[str]:
        """All files, sorted; hidden ones (git's, the Hub client's, a Mac's) left out."""
        on_hub = partial(list_repo_files, self.repo, repo_type="dataset", revision=self.revision)
        return sorted(name for name in (walk(self.source) if self.source else on_hub()) if not _is_hidden(name))

    def folder(self, patterns: list[str]) -> Path:
        """The folder that holds at least the files that the patterns (`*.zip`) match."""
        if self.source is not None:
            return self.source
        return Path(snapshot_download(self.repo, repo_type="dataset", revision=self.revision, allow_patterns=patterns))


def table_rows(files: Files, published: PublishedSet) -> Iterator[Candidate]:
    """Rows of a data set, streamed. The id is the row's number; texts and numbers of a row become `meta`."""
    import datasets

    where = published.repo if files.source is None else str(files.source.resolve())
    rows = datasets.load_dataset(where, split=published.split, streaming=True, revision=files.revision).decode(False)
    known = KNOWN_COLUMNS if published.columns is None else [published.columns]
    for number, row in enumerate(rows):
        found = [pair for pair in known if set(pair) <= row.keys()]
        if len(found) != 1:
            raise PairSourceError(
                f"{where}: the columns are {', '.join(row)}; name two of them with --columns IMAGE EDITED"
            )
        pair_id, columns = f"{number:07d}", found[0]
        image, edited = (_encoded(row[name]) for name in columns)
        if image is None or edited is None:
            yield Candidate(pair_id, problem=f"no image in {columns[0] if image is None else columns[1]}")
            continue
        meta = {name: value for name, value in row.items() if name not in columns and _is_plain(value)}
        yield pair_candidate(pair_id, image, edited, meta)


def _encoded(cell: Any) -> bytes | None:
    """The encoded image of a cell: bytes, or the content of a file that `datasets` names."""
    cell = cell[0] if isinstance(cell, list) and len(cell) == 1 else cell
    data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, Mapping) else (cell, None)
    if isinstance(data, bytes) or not path:
        return data if isinstance(data, bytes) else None
    import fsspec

    try:
        with fsspec.open(path, "rb") as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(isinstance(one, str) for one in value)
    return isinstance(value, (str, int, float, bool)) and value == value


@contextmanager
def open_files(files: Files) -> Iterator[Mapping[str, Callable[[], bytes]]]:
    """Readers of files by name (ARCHIVE/MEMBER in archives), unpacked in memory. Raises PairSourceError for damage."""
    names = files.names()
    folder = files.folder([f"*{ending}" for one in _NAMED for ending in (one, one.upper())])
    found: dict[str, Callable[[], bytes]] = {}
    with ExitStack() as opened:
        for name in names:
            if name.lower().endswith(_ARCHIVES) and is_lfs_pointer(folder / name):
                raise PairSourceError(f"{folder / name} {LFS_ADVICE}")
            try:
                if name.lower().endswith(".zip"):
                    pack = opened.enter_context(zipfile.ZipFile(folder / name))
                    for one in pack.infolist():
                        if not one.is_dir():  # some Windows programs write backslashes
                            found[f"{name}/" + one.filename.replace("\\", "/")] = partial(_of_zip, pack, one)
                elif name.lower().endswith(_ARCHIVES):
                    tar = opened.enter_context(tarfile.open(folder / name))
                    members = [one for one in tar if one.isfile()]
                    found |= {f"{name}/{one.name.removeprefix('./')}": partial(_of_tar, tar, one) for one in members}
                    check_end(tar)
                else:
                    found[name] = (folder / name).read_bytes
            except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
                raise PairSourceError(f"{files.place}: {name}: the archive is damaged: {error}") from error
        yield {name: found[name] for name in sorted(found) if not _is_hidden(name)}


def check_end(archive: tarfile.TarFile) -> None:
    """Raises tarfile.ReadError for a tar whose last member was read and no end mark (two blocks of zeros) follows it.

    `tarfile` takes a cut between two members, or a bad header, for the end. The position only moves forward.
    """
    stream = archive.fileobj
    assert stream is not None
    if stream.tell() - archive.offset < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends without its end mark: it was cut off")
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("what follows its last whole file is neither a file nor the end mark")


def _of_zip(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        with archive.open(member) as stream:
            return read_bounded(stream, member.filename)
    except (RuntimeError, zipfile.BadZipFile, zlib.error, EOFError) as error:  # messages without archive or what to do
        raise PairSourceError(
            f"{archive.filename}: {member.filename}: cannot be unpacked: {error}; unpack it with another program (such "
            "as 7-Zip) and give the folder"
        ) from error


def _of_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None, "links and folders were left out"
    return read_bounded(stream, member.name)


def read_bounded(stream: IO[bytes], name: str) -> bytes:
    """A file of an archive, whose stated size may be wrong. Raises TooLargeError beyond the most for its kind."""
    limit = MAX_IMAGE_BYTES if is_image_name(name) else MAX_TEXT_BYTES
    data = stream.read(limit + 1)
    if len(data) > limit:
        raise TooLargeError(f"a file in an archive unpacks to more than {limit >> 20} MiB")
    return data


def _is_hidden(path: str) -> bool:
    parts = [part for part in path.split("/") if part != ".."]  # of an archive: names alone are used, never its folders
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)


def pairs(files: Files, found: Mapping[str, Callable[[], bytes]]) -> Iterator[Candidate]:
    """Pairs by name, in order. A NAME_comparison.json becomes scenes/NAME_comparison.json and the pair's `meta`."""
    parts: dict[str, dict[str, str]] = {}
    for match in filter(None, map(_PAIR.fullmatch, found)):
        name, part = match[1], match[match.lastindex or 0]
        other = parts.setdefault(name, {}).setdefault(part, match[0])
        if other != match[0]:
            raise PairSourceError(f"{files.place}: two files for the {part} part of {name}: {other} and {match[0]}")
    names = [name for name in sorted(parts) if parts[name].keys() - {"comparison"}]
    if not names:
        raise PairSourceError(
            f"{files.place}: no images called NAME_original and NAME_modified among {len(found)} files "
            f"({shorten(list(found), 5)}); if the pairs are in columns of a table, give --layout table"
        )
    for name in names:
        missing = [part for part in ("original", "modified") if part not in parts[name]]
        if missing or not _SAFE_NAME.fullmatch(name):
            problem = f"the {missing[0]} image is missing" if missing else "the name cannot be a file's"
            yield Candidate(name, problem=problem)
            continue
        try:
            data = {part: found[path]() for part, path in parts[name].items()}
        except TooLargeError as error:
            yield Candidate(name, problem=str(error))
            continue
        try:
            meta = json.loads(data.get("comparison", b"{}"))
        except ValueError:
            yield Candidate(name, problem="the scene description is no JSON")
            continue
        if not isinstance(meta, dict):
            yield Candidate(name, problem="the scene description is no JSON object")
            continue
        pair = pair_candidate(name, data["original"], data["modified"], meta)
        described = {f"scenes/{name}_comparison.json": data["comparison"]} if "comparison" in data else {}
        yield replace(pair, files={**pair.files, **described})


def charts(files: Files, found: Mapping[str, Callable[[], bytes]], split: str) -> Iterator[Candidate]:
    """Charts of one split with their tables, as png/NAME.png and tables/NAME.csv."""
    pattern = re.compile(rf"(?:.*/)?{re.escape(split)}/(png|tables)/([^/]+)\.(?:png|csv)")
    parts: dict[str, dict[str, str]] = {}
    for match in filter(None, map(pattern.fullmatch, found)):
        parts.setdefault(match[2], {})[match[1]] = match[0]
    if not parts:
        raise PairSourceError(
            f"{files.place}: no {split}/png and {split}/tables among {len(found)} files ({shorten(list(found), 5)})"
        )
    for name, paths in sorted(parts.items()):
        missing = [part for part in ("png", "tables") if part not in paths]
        if missing or not _SAFE_NAME.fullmatch(name):
            yield Candidate(name, problem=f"no file in {missing[0]}" if missing else "the name cannot be a file's")
            continue
        png, csv = f"png/{name}.png", f"tables/{name}.csv"
        try:
            yield Candidate(name, {png: found[paths["png"]](), csv: found[paths["tables"]]()}, png)
        except TooLargeError as error:
            yield Candidate(name, problem=str(error))

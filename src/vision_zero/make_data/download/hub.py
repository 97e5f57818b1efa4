"""Ready-made sets: what they are called on the Hub, how they are laid out, and their files there or in a local folder.

Names and layouts are facts of the date in SETS' comments; a name that is not there any more is an error, never another
set in its place.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast
from urllib.parse import quote

from vision_zero.data.folders import PairSourceError
from vision_zero.types import Domain

Layout = Literal["table", "pairs", "chartqa", "imgedit"]
Reader = Callable[[], bytes]

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz")


class HubError(RuntimeError):
    """A set cannot be fetched. The message says what to do."""


@dataclass(frozen=True)
class PublishedSet:
    """A set on the Hub.

    `table`: rows with images in columns. `pairs`: NAME_original and NAME_modified images with NAME_comparison.json or
    without, in folders or archives. `chartqa`: SPLIT/png and SPLIT/tables in an archive. `imgedit`: paths in Parquet/,
    images in Singleturn/, in tar archives that may be cut into parts.
    """

    repo: str
    layout: Layout
    domain: Domain
    split: str = "train"
    columns: tuple[str, str] | None = None


# Where each is known from (November 2026): the three official names and ImgEdit's name, layout and columns are in the
# README of their authors' code; `replacement_images/` and `replacement_scenes/` of the CLEVR set are in that code.
# How the official chart and real-world sets are packed is written nowhere: their files are looked through for pairs.
# ChartQA's archive and the columns of the other sets are used so in many public programs.
SETS: Mapping[str, PublishedSet] = {
    "vision-zero-clevr": PublishedSet("Qinsi1/Vision-Zero-clevr-dataset", "pairs", "scenes"),
    "vision-zero-chart": PublishedSet("Qinsi1/Vision-Zero-chart-dataset", "pairs", "charts"),
    "vision-zero-realworld": PublishedSet("Qinsi1/Vision-Zero-realworld-dataset", "pairs", "photos"),
    "chartqa": PublishedSet("ahmed-masry/ChartQA", "chartqa", "charts"),
    "imgedit": PublishedSet("sysuyy/ImgEdit", "imgedit", "photos"),
    "instructpix2pix": PublishedSet(
        "timbrooks/instructpix2pix-clip-filtered", "table", "photos", columns=("original_image", "edited_image")
    ),
    "instructpix2pix-1000": PublishedSet(
        "fusing/instructpix2pix-1000-samples", "table", "photos", columns=("input_image", "edited_image")
    ),
    "magicbrush": PublishedSet("osunlp/MagicBrush", "table", "photos", columns=("source_img", "target_img")),
    "omniedit": PublishedSet("TIGER-Lab/OmniEdit-Filtered-1.2M", "table", "photos", columns=("src_img", "edited_img")),
    "ultraedit-500k": PublishedSet(
        "BleachNick/UltraEdit_500k", "table", "photos", split="FreeForm", columns=("source_image", "edited_image")
    ),
}


@dataclass(frozen=True)
class Place:
    """Where the files of a set are: `fs` is an fsspec file system, `root` the set's folder in it."""

    name: str
    fs: Any
    root: str

    def paths(self) -> list[str]:
        """All files, sorted, relative to the root; hidden ones (git's, the Hub client's, a Mac's) left out."""
        depth = (
            self.root.count("/") + 1
        )  # by parts: the Hub's file system may write a revision otherwise than it was given
        found = ("/".join(str(path).split("/")[depth:]) for path in self.fs.find(self.root))
        return sorted(path for path in found if not _is_hidden(path))

    def open(self, path: str) -> IO[bytes]:
        return cast("IO[bytes]", self.fs.open(f"{self.root}/{path}", "rb"))

    def read(self, path: str) -> bytes:
        with self.open(path) as stream:
            return stream.read()


def local_place(folder: Path) -> Place:
    """Raises PairSourceError for a folder that is not there."""
    from fsspec.implementations.local import LocalFileSystem

    if not folder.is_dir():
        raise PairSourceError(f"{folder}: no such folder; --source is a folder that holds the set's files")
    return Place(str(folder), LocalFileSystem(), str(folder.resolve()))


def hub_place(repo: str, revision: str | None) -> Place:
    """Raises HubError where `huggingface_hub` is missing. Nothing is asked of the Hub before a file is."""
    try:
        from huggingface_hub import HfFileSystem
    except ImportError as error:
        raise HubError("fetching from the Hub needs `pip install huggingface_hub datasets`") from error
    root = f"datasets/{repo}" + (f"@{quote(revision, safe='')}" if revision else "")
    return Place(f"the Hub's data set {repo}", HfFileSystem(), root)


@contextmanager
def open_files(place: Place) -> Iterator[Mapping[str, Reader]]:
    """All files of a place by name, those in its archives as `ARCHIVE/MEMBER`, in order; nothing is unpacked to disk.

    Raises PairSourceError for an archive that is damaged.
    """
    with ExitStack() as opened:
        files: dict[str, Reader] = {}
        for path in place.paths():
            if path.lower().endswith(ARCHIVES):
                members = _members(opened.enter_context(place.open(path)), path, f"{place.name}: {path}", opened)
                files.update((name, reader) for name, reader in members.items() if not _is_hidden(name))
            else:
                files[path] = lambda path=path: place.read(path)  # type: ignore[misc]
        yield dict(sorted(files.items()))


def _members(stream: IO[bytes], path: str, where: str, opened: ExitStack) -> dict[str, Reader]:
    try:
        if path.lower().endswith(".zip"):
            archive = opened.enter_context(zipfile.ZipFile(stream))
            return {
                f"{path}/{one.filename}": lambda one=one: archive.read(one)  # type: ignore[misc]
                for one in archive.infolist()
                if not one.is_dir()
            }
        packed = opened.enter_context(tarfile.open(fileobj=stream, mode="r:*"))  # noqa: SIM115
        members: dict[str, Reader] = {
            f"{path}/{one.name.removeprefix('./')}": lambda one=one: _of_tar(packed, one)  # type: ignore[misc]
            for one in packed
            if one.isfile()
        }
        check_end(packed)
        return members
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise PairSourceError(f"{where}: the archive is damaged: {error}") from error


def check_end(archive: tarfile.TarFile) -> None:
    """Raises tarfile.ReadError for a tar whose last member was read and no end mark (two blocks of zeros) follows it.

    `tarfile` takes a cut between two members, and what is no header, for the end. The position only moves forward.
    """
    stream = archive.fileobj
    assert stream is not None
    if stream.tell() - archive.offset < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("it ends without its end mark: it was cut off")
    if stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
        raise tarfile.ReadError("what follows its last whole file is neither a file nor the end mark")


def _of_tar(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    assert stream is not None, "links and folders were left out"
    return stream.read()


def _is_hidden(path: str) -> bool:
    parts = [part for part in path.split("/") if part != ".."]  # of an archive: names alone are used, never its folders
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)

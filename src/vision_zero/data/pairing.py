"""Which image files of a folder are pairs, by a word in their names or in the names of their folders.

A reading is whole if every image is one of a pair. The only whole one of the sure WORDS is taken. Where there are
several, where images are left over, or where only UNSURE words fit, nothing is guessed: `pair_by` says it.
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from unicodedata import normalize

import yaml

from vision_zero.data.errors import PairSourceError

_TABLES = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text("utf-8"))
WORDS, UNSURE = ([(before, after) for before, after in _TABLES[name]] for name in ("words", "unsure"))
NONE = "none"
SUFFIX, FOLDER, FILE, PREFIX = FORMS = ("NAME_{}", "{}/NAME", "NAME/{}", "{}_NAME")
_ONE = "pair"  # NAME of before.png and after.png that lie in no folder
DOCUMENTED = "NAME_original + NAME_modified"
_KIND = r"(?:[_ -]?(?:image|img|photo|picture)s?)?"  # what may follow a word: 1_source_image.png, target_images/
_CAMEL = r"(?-i:(?<=[a-z\d])(?=[A-Z]))"
_Name = tuple[str, str, str, str]
"""Folder with its slash, name without extension, the same in lower case, and the whole path of a file."""


@dataclass(frozen=True)
class Reading:
    """A way to pair files: the originals and the edits by NAME in one Unicode form, and how NAME was written."""

    form: str
    words: tuple[str, str]
    sides: tuple[dict[str, str], dict[str, str]] = field(default_factory=lambda: ({}, {}))
    written: dict[str, str] = field(default_factory=dict)
    marks: dict[str, tuple[int, str]] = field(default_factory=dict)

    def add(self, side: int, name: str, file: str) -> None:
        key = normalize("NFC", name)
        self.marks[file] = side, key
        self.sides[side].setdefault(key, file)
        if side == 0 or key not in self.written:
            self.written[key] = name

    def pairs(self) -> dict[str, tuple[str, str]]:
        """(original, edit) by the NAME that the original has."""
        before, after = self.sides
        return {self.written[key]: (before[key], after[key]) for key in before if key in after}

    def pattern(self, side: int, name: str = "NAME") -> str:
        """`NAME_original`, of side 0."""
        return self.form.format(self.words[side]).replace("NAME", name) if self.words[side] else name

    @property
    def flag(self) -> str:
        form = {SUFFIX: "_{}", FOLDER: "{}/", FILE: "/{}", PREFIX: "{}_"}[self.form]
        return f"--pair_by {','.join(map(form.format, self.words))}"

    def __str__(self) -> str:
        return f"{self.pattern(0)} + {self.pattern(1)}"


def find_pairs(root: Path, images: Sequence[str], pair_by: str | None) -> Reading | None:
    """The reading by which all `images` (paths in `root`) are pairs, None if they are single images.

    `pair_by`: `none`; two words, as `before,after`, `before/,after/` or `_before,_after`; or None for the known words.
    Raises PairSourceError where images are left over, or where more than one reading is possible.
    """
    if pair_by == NONE:
        return None
    forms, words = _asked_for(pair_by) if pair_by else (FORMS, WORDS)
    names = list(map(_split, images))
    likely = _readings(names, forms, words)
    whole = [one for one in reversed(likely) if 2 * len(one.pairs()) == len(images)]
    found = list(reversed({tuple(sorted(one.pairs().values())): one for one in whole}.values()))
    if found and (len(found) == 1 or str(found[0]) == DOCUMENTED):
        return found[0]
    if likely and not found:
        raise PairSourceError(_left_over(root, images, max(likely, key=lambda one: len(one.pairs()))))
    if not found and not pair_by:  # three quarters: of frames 0, 1 and 2 of a film only two thirds would be pairs
        unsure = _readings(names, FORMS[:3], UNSURE)
        found = [one for one in unsure if 8 * len(one.pairs()) >= 3 * len(images) and one.sides[0].keys() != {_ONE}]
        found += _of_two_folders(names)
    if found:
        said = [f"{one} ({one.flag})" for one in found]
        raise PairSourceError(
            f"{root}: its {len(images)} images may be pairs {' or '.join(said)}, or single images (--pair_by none)"
        )
    return None


def _of_two_folders(images: Sequence[_Name]) -> list[Reading]:
    """The reading of two folders with files of the same names, one of which is called by a known word, if it is all."""
    folders = sorted({folder[:-1] for folder, *_ in images})
    if not {os.path.basename(folder).lower() for folder in folders} & {word for pair in WORDS for word in pair if word}:
        return []
    if len(folders) != 2 or len({os.path.dirname(folder) for folder in folders}) != 1 or len(images) < 4:
        return []
    one = Reading(FOLDER, (os.path.basename(folders[0]), os.path.basename(folders[1])))
    for folder, base, _, file in images:
        one.add(folders.index(folder[:-1]), base, file)
    return [one] if 2 * len(one.pairs()) == len(images) and all(one.words) else []


def _asked_for(pair_by: str) -> tuple[tuple[str, ...], list[tuple[str, str]]]:
    """Forms and words of `before/,after/`."""
    before, comma, after = (word.strip().lower() for word in pair_by.partition(","))
    words = before.strip("_-. /"), after.strip("_-. /")
    if not comma or "," in after or not words[1] or words[0] == words[1]:
        raise PairSourceError(f"--pair_by is none or the words of original and edit, as before,after; got {pair_by!r}")
    ends = (after[0] in "_-.", after[-1] == "/", after[0] == "/", after[-1] in "_-.")
    return tuple(form for form, end in zip(FORMS, ends, strict=True) if end) or FORMS, [words]


def _readings(images: Sequence[_Name], forms: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[Reading]:
    """All readings with images on both sides, form by form. Of the documented words one side is enough."""
    marked, readings = _marks(images, {word for pair in pairs for word in pair if word}), list[Reading]()
    for one in (Reading(form, pair) for form in forms for pair in pairs):
        originals, edits = (marked[one.form, word] for word in one.words)
        if edits and not one.words[0] and one.form == SUFFIX:  # any image but the edits
            others = {file for _, file in edits}
            originals = [(folder + base, file) for folder, base, _, file in images if file not in others]
        if (originals and edits) or ((originals or edits) and str(one) == DOCUMENTED):
            for side, files in enumerate((originals, edits)):
                for name, file in files:
                    one.add(side, name, file)
            readings.append(one)
    return [one for one in readings if one.words[0] or one.pairs()]


def _marks(images: Sequence[_Name], words: Set[str]) -> Mapping[tuple[str, str], list[tuple[str, str]]]:
    """(NAME, file) by form and word: every word at an end of a file's name, or as the name of it or of a folder.

    There may be a million names: most are known by how they begin and end, and a folder is looked at once.
    """
    either = "|".join(sorted(map(re.escape, words), key=len, reverse=True))
    suffix = re.compile(rf"(?is)(.+)(?:[_. -][(\[]?|{_CAMEL}|(?<=\d)(?=[^\W\d]))({either}){_KIND}[)\]]?")
    prefix = re.compile(rf"(?is)({either}){_KIND}(?:[_. -]|{_CAMEL}|(?<=[^\W\d])(?=[\d(\[]))(.+)")
    alone = re.compile(rf"(?i)(?:(?:image|img|photo|picture)s?[_ -])?({either})s?{_KIND}")
    begins = (*map(str.casefold, words), "image", "img", "photo", "picture")
    ends = (*begins, *(f"{word}s" for word in begins), ")", "]")
    first, last = {word[0] for word in begins}, {word[-1] for word in ends}
    marked: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    without_word: dict[str, list[tuple[str, str]]] = {}
    for folder in {one[0] for one in images}:
        parts = folder.split("/")[:-1]
        for place, part in enumerate(parts):
            if match := alone.fullmatch(part):
                rest = "".join(f"{one}/" for one in (*parts[:place], *parts[place + 1 :]))
                without_word.setdefault(folder, []).append((match[1].lower(), rest))
    for folder, base, folded, file in images:
        ended = folded[-1:] in last and folded.endswith(ends)
        begun = folded[:1] in first and folded.startswith(begins)
        if ended and (match := suffix.fullmatch(base)):
            marked[SUFFIX, match[2].lower()].append((folder + match[1], file))
        if begun and (match := prefix.fullmatch(base)):
            marked[PREFIX, match[1].lower()].append((folder + match[2], file))
        if begun and ended and (match := alone.fullmatch(base)):
            marked[FILE, match[1].lower()].append((folder[:-1] or _ONE, file))
        for word, rest in without_word.get(folder, ()):
            marked[FOLDER, word].append((rest + base, file))
    return marked


def _split(file: str) -> _Name:
    begin = file.rfind("/") + 1
    base = file[begin : file.rfind(".")]  # all images have an extension
    return file[:begin], base, base.casefold(), file


def _left_over(root: Path, images: Sequence[str], reading: Reading) -> str:
    """What is wrong with a reading: its first file that is not one of a pair."""
    of_pairs = {file for pair in reading.pairs().values() for file in pair}
    alone = [file for file in images if file not in of_pairs]
    first = next((file for file in alone if file not in reading.marks), alone[0])
    if of_pairs and len(of_pairs) < len(alone):
        before, after = next(iter(reading.pairs().values()))
        return (
            f"{root}: {before} and {after} look like a pair, but {len(alone)} of {len(images)} images are in none "
            f"(first: {alone[0]}); say by --pair_by which are pairs: none, or other words"
        )
    if first not in reading.marks:
        wrong = f"neither {reading.pattern(0)} nor {reading.pattern(1)}, in a folder that holds such pairs"
    else:
        side, key = reading.marks[first]
        wrong = f"its partner {reading.pattern(1 - side, key)}.* is missing"
        if reading.sides[side][key] != first:
            wrong = f"two files for one image of a pair: {reading.sides[side][key]} and {first}"
    return (
        f"{root / first}: {wrong} ({len(alone)} of {len(images)} images are in no pair); move or rename them, or say "
        "by --pair_by which are pairs: none, or other words"
    )

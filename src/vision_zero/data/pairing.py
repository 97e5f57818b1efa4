"""Which image files of a folder are pairs, by a word in their names or in the names of their folders.

A reading is whole if every image is one of a pair. The only whole one of the sure WORDS is taken; where there are
several, where one is nearly whole, or where only UNSURE words fit, nothing is guessed: the user says it by `pair_by`.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from unicodedata import normalize

from vision_zero.data.errors import PairSourceError, shorten

AFTER = ("modified", "edited", "edit", "after", "target", "output")
WORDS: tuple[tuple[str, str], ...] = (
    *(("original", after) for after in AFTER[:3]),
    *(("orig", after) for after in (*AFTER[:3], "mod")),
    *(("before", "after"), ("unedited", "edited")),
    *(("source", "target"), ("source", "edited"), ("src", "tgt"), ("src", "dst"), ("src", "edited")),
    *(("input", "output"), ("input", "edited"), ("input", "target")),
    *(("", after) for after in AFTER),  # NAME.png and NAME_edited.png
)
"""Words of the original and of its edit, in any case."""
UNSURE = (("a", "b"), ("0", "1"), ("1", "2"), ("old", "new"))
"""Words that other files have too, such as the frames of a film: these are asked about, never taken."""

NONE = "none"
SUFFIX, FOLDER, FILE, PREFIX = FORMS = ("NAME_{}", "{}/NAME", "NAME/{}", "{}_NAME")
_ONE_PAIR = "pair"
"""NAME of before.png and after.png that lie in no folder."""
DOCUMENTED = "NAME_original + NAME_modified"
_FLAGS = {SUFFIX: "_{}", FOLDER: "{}/", FILE: "/{}", PREFIX: "{}_"}
_KIND = r"(?:[_ -]?(?:image|img|photo|picture)s?)?"
"""What may follow a word: 1_source_image.png, target_images/."""


@dataclass(frozen=True)
class Reading:
    """A way to pair files: `sides[key]` are the originals and the edits of a key, as (NAME as written, file)."""

    form: str
    words: tuple[str, str]
    sides: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]]

    def pairs(self) -> dict[str, tuple[str, str]]:
        """(original, edit) by the NAME that the original has."""
        found = {}
        for before, after in self.sides.values():
            if len(before) == len(after) == 1:
                found[before[0][0]] = (before[0][1], after[0][1])
        return found

    def pattern(self, side: int, name: str = "NAME") -> str:
        """`NAME_original`, of side 0."""
        return self.form.format(self.words[side]).replace("NAME", name) if self.words[side] else name

    @property
    def flag(self) -> str:
        return "--pair_by " + ",".join(_FLAGS[self.form].format(word) if word else "" for word in self.words)

    def __str__(self) -> str:
        return f"{self.pattern(0)} + {self.pattern(1)}"


def find_pairs(root: Path, images: Sequence[str], pair_by: str | None) -> Reading | None:
    """The reading by which all `images` (paths in `root`) are pairs, None if they are single images.

    `pair_by`: `none`; two words, as `before,after`, `before/,after/` or `_before,_after`; or None for the known words.
    Raises PairSourceError where images are left over, or where more than one reading is possible.
    """
    if pair_by == NONE:
        return None
    forms, chosen = _asked_for(pair_by) if pair_by else (FORMS, WORDS)
    readings = [one for one in _readings(images, forms, chosen) if _is_likely(one)]
    whole: dict[tuple[tuple[str, str], ...], Reading] = {}
    for one in readings:
        pairs = one.pairs()
        if 2 * len(pairs) == len(images):
            whole.setdefault(tuple(sorted(pairs.values())), one)
    found = list(whole.values())
    if found and (len(found) == 1 or str(found[0]) == DOCUMENTED):
        return found[0]
    if found:
        raise PairSourceError(_question(root, images, found))
    if readings:
        raise PairSourceError(_left_over(root, images, max(readings, key=lambda one: len(one.pairs()))))
    if not pair_by:  # three quarters: of a film's frames 0, 1 and 2 only two thirds would be pairs
        unsure = [one for one in _readings(images, FORMS[:3], UNSURE) if one.sides.keys() != {_ONE_PAIR}]
        possible = [one for one in unsure if 8 * len(one.pairs()) >= 3 * len(images)]
        if possible:
            raise PairSourceError(_question(root, images, possible))
    return None


def _asked_for(pair_by: str) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Forms and words of `before/,after/`."""
    words = [word.strip() for word in pair_by.split(",")]
    if len(words) != 2 or not words[1].strip("_-. /") or words[0] == words[1]:
        raise PairSourceError(
            f"--pair_by is none, or the words of the original and of its edit, as before,after; got {pair_by!r}"
        )
    before, after = (word.strip("_-. /").lower() for word in words)
    forms = tuple(form for form in FORMS if _FLAGS[form].format(after) == words[1])
    return forms or FORMS, ((before, after),)


def _readings(images: Sequence[str], forms: Sequence[str], chosen: Sequence[tuple[str, str]]) -> list[Reading]:
    """All readings with an image on some side, those of one form together."""
    words = "|".join(sorted({re.escape(word) for pair in chosen for word in pair if word}, key=len, reverse=True))
    flags = re.DOTALL | re.IGNORECASE
    suffix = re.compile(rf"(.*[^/])[_. -]({words}){_KIND}", flags)
    prefix = re.compile(rf"({words}){_KIND}[_. -](.+)", flags)
    alone = re.compile(rf"(?:(?:image|img|photo|picture)s?[_ -])?({words})s?{_KIND}", flags)
    marked: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in images:
        for form, word, rest in _marks(name, suffix, prefix, alone):
            marked[form, word].append((rest, name))
    found = []
    for form in forms:
        for pair in chosen:
            if not pair[0] and form != SUFFIX:
                continue
            sides: dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]]]] = defaultdict(lambda: ([], []))
            for side in (1, 0):
                files = marked[form, pair[side]]
                if not pair[side] and sides:  # the original has no word: it is an image called as the edit but for its
                    edits = {name for _, name in marked[form, pair[1]]}
                    files = [(os.path.splitext(name)[0], name) for name in images if name not in edits]
                for rest, name in files:
                    sides[normalize("NFC", rest)][side].append((rest, name))
            if sides:
                found.append(Reading(form, pair, dict(sides)))
    return found


def _marks(
    name: str, suffix: re.Pattern[str], prefix: re.Pattern[str], alone: re.Pattern[str]
) -> Iterator[tuple[str, str, str]]:
    """(form, word, NAME) of every word at the end or the beginning of a file's name, or of a folder in its path."""
    stem = os.path.splitext(name)[0]
    *folders, base = stem.split("/")
    if match := suffix.fullmatch(stem):
        yield SUFFIX, match[2].lower(), match[1]
    if match := prefix.fullmatch(base):
        yield PREFIX, match[1].lower(), "/".join((*folders, match[2]))
    if match := alone.fullmatch(base):
        yield FILE, match[1].lower(), "/".join(folders) or _ONE_PAIR
    for place, folder in enumerate(folders):
        if match := alone.fullmatch(folder):
            yield FOLDER, match[1].lower(), "/".join((*folders[:place], *folders[place + 1 :], base))


def _is_likely(reading: Reading) -> bool:
    """True if both of its words are there. One of the documented words is enough, and a NAME alone is not."""
    if not reading.words[0]:
        return bool(reading.pairs())
    there = [any(side[number] for side in reading.sides.values()) for number in (0, 1)]
    return all(there) or str(reading) == DOCUMENTED


def _question(root: Path, images: Sequence[str], readings: Sequence[Reading]) -> str:
    said = " or ".join(f"{len(one.pairs())} pairs {one} ({one.flag})" for one in readings)
    return f"{root}: its {len(images)} images may be {said}, or single images (--pair_by none); give one of these"


def _left_over(root: Path, images: Sequence[str], reading: Reading) -> str:
    """What is wrong with a reading, its first file first."""
    of_pairs = {name for pair in reading.pairs().values() for name in pair}
    marked = {name for sides in reading.sides.values() for side in sides for _, name in side}
    alone = [name for name in images if name not in of_pairs]
    advice = f"{len(alone)} of {len(images)} images are in no pair {reading}: move or rename them, or give --pair_by"
    advice += " none for single images, or the words of the pairs"
    for name in alone:
        if name not in marked:
            return (
                f"{root / name}: neither {reading.pattern(0)} nor {reading.pattern(1)}, in a folder that holds such "
                f"pairs; {advice}"
            )
    for sides in reading.sides.values():
        for number, side in enumerate(sides):
            if len(side) > 1:
                word = reading.words[number] or "original"
                files = shorten([name for _, name in side], 2).replace(", ", " and ")
                return f"{root}: two files for the {word} image of one pair: {files}; {advice}"
    for sides in reading.sides.values():
        for number, side in enumerate(sides):
            if side and not sides[1 - number]:
                partner = reading.pattern(1 - number, side[0][0])
                return f"{root / side[0][1]}: its partner {partner}.* is missing; {advice}"
    return f"{root}: {advice}"

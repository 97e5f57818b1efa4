"""Check a source of image pairs before a run: count it, open a sample, list what is bad, draw a contact sheet.

    python -m vision_zero.inspect_data data/photos --sheet sheet.jpg
    python -m vision_zero.inspect_data my/photos --against benchmark/images      # do they share an image?

Ends with 1 if the source is not laid out as it should be, a pair is bad or an image is shared.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial

from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from vision_zero import config
from vision_zero.config.game import add_options, beside
from vision_zero.data.contamination import DEFAULT_DISTANCE, N_BITS, HashedImages, hash_images, shared_images
from vision_zero.data.errors import BadImageError, PairSourceError, printable
from vision_zero.data.hf_datasets import ALL
from vision_zero.data.pairs import Bar, LazyPairs, PairReport, check_pairs, load_pairs, open_pair, sample_rows
from vision_zero.rollout.stopping import end_with_reader
from vision_zero.run_folder import RunFolderError, check_own, marked
from vision_zero.types import ImagePair

CELL = 200  # side in pixels of the square that an image of the contact sheet is fitted into
SHEETS = (".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff")  # that keep the mark by which they may be written again
MARGIN = 8
CAPTION = 20
FONT = ImageFont.load_default(size=13)


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    args = parse(argv)
    try:
        if args.sheet is not None:
            if args.sheet.suffix.lower() not in SHEETS:
                raise PairSourceError(f"--sheet {args.sheet}: must end in one of {', '.join(SHEETS)}")
            check_own(args.sheet, "--sheet")
        options = {"scenes": args.scenes, "pair_by": args.pair_by, "dataset_split": args.split}
        pairs = load_pairs(args.source, columns=columns(args.columns), **options)
        sample = None if args.all else args.sample
        report = check_pairs(pairs, sample, args.seed, progress("opening pairs", "pair"), collect=True)
        print(report_table(", ".join(args.source), pairs, report))
        for line in (*pairs.notes, *report.notes, *(f"bad: {bad.id}: {bad.reason}" for bad in report.bad)):
            print(printable(line))
        if args.sheet is not None:
            shown = [pairs[row] for row in sample_rows(len(pairs), args.sheet_pairs, args.seed)]
            contact_sheet(shown).save(args.sheet, exif=marked())
            print(f"{'contact sheet':<22} {args.sheet}, {len(shown)} pairs")
        shares = bool(args.against) and report_shared_images(pairs, args)
    except (PairSourceError, RunFolderError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 1 if report.bad or shares else 0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m vision_zero.inspect_data", description="Check image pairs.")
    add_options(
        parser, beside(config.__file__, "inspect_data"), {"distance": DEFAULT_DISTANCE}, distance=range(N_BITS + 1)
    )
    return parser.parse_args(argv)


def columns(named: Sequence[str] | None) -> Mapping[str, str] | None:
    """Columns by field: {"image": "input_image"} for ["image=input_image"]. Raises PairSourceError."""
    if named is None:
        return None
    for text in named:
        if not all(text.partition("=")):
            raise PairSourceError(f"--columns takes FIELD=NAME, got {text!r}")
    return {field: name for field, _, name in (text.partition("=") for text in named)}


def progress(what: str, unit: str) -> Bar:
    """A progress bar, where there is a terminal."""
    return partial(tqdm, desc=what, unit=unit, disable=None, leave=False)


def report_shared_images(pairs: Sequence[ImagePair], args: argparse.Namespace) -> bool:
    """Print images that look like one of --against. Returns whether there are any, or any that do not open."""
    name = ", ".join(args.against)
    against = load_pairs(args.against, columns=columns(args.against_columns), pair_by=args.pair_by, dataset_split=ALL)
    others = hash_with_progress(against, name)
    ours = hash_with_progress(pairs, "the source")
    found = shared_images(ours, others, args.distance, progress("comparing", "block"))
    print(f"{'compared':<22} {len(ours.ids)} images with {len(others.ids)} of {name}")
    print(f"{'shared':<22} {len(found)} (within {args.distance} of {N_BITS} bits)")
    for one in found:
        print(printable(f"shared: {one.id} looks like {one.other_id} of the other source ({one.distance} bits)"))
    return bool(found or ours.bad or others.bad)


def hash_with_progress(pairs: Sequence[ImagePair], name: str) -> HashedImages:
    """`hash_images` with a progress bar; images that cannot be opened are printed."""
    hashed = hash_images(pairs, progress(f"hashing {name}", "image"))
    for bad in hashed.bad:
        print(printable(f"not compared: {bad.id}: {bad.reason}"))
    return hashed


def report_table(source: str, pairs: LazyPairs, report: PairReport) -> str:
    lines = [
        ("source", source),
        ("layout", pairs.layout),
        ("pairs", str(report.n_pairs)),
        ("with edited image", str(report.n_edited)),
        *((f"domain {domain}", str(count)) for domain, count in report.domains.items()),
        ("opened", str(report.n_opened + len(report.bad))),
        ("bad", str(len(report.bad))),
        ("edit changes nothing", str(report.n_identical)),
        ("size min, median, max", ", ".join(f"{width}x{height}" for width, height in report.sizes) or "-"),
    ]
    return "\n".join(printable(f"{name:<22} {value}") for name, value in lines)


def contact_sheet(pairs: Sequence[ImagePair]) -> Image.Image:
    """A near-square grid of pairs: original and edited side by side, the id beneath. A bad pair is a red cross."""
    n_wide = 2 if any(pair.edited is not None for pair in pairs) else 1
    width, height = n_wide * CELL + MARGIN, CELL + CAPTION + MARGIN
    n_columns = max(1, round((len(pairs) * height / width) ** 0.5))
    n_rows = -(-len(pairs) // n_columns)
    sheet = Image.new("RGB", (n_columns * width + MARGIN, n_rows * height + MARGIN), "white")
    for number, pair in enumerate(pairs):
        row, column = divmod(number, n_columns)
        draw_pair(sheet, pair, MARGIN + column * width, MARGIN + row * height, n_wide)
    return sheet


def draw_pair(sheet: Image.Image, pair: ImagePair, left: int, top: int, n_wide: int) -> None:
    draw = ImageDraw.Draw(sheet)
    height = CELL
    try:
        images = open_pair(pair)
    except BadImageError:
        right, bottom = left + n_wide * CELL - MARGIN, top + CELL
        draw.line((left, top, right, bottom), fill="red", width=2)
        draw.line((left, bottom, right, top), fill="red", width=2)
    else:
        shown = [image for image in images if image is not None]
        for number, image in enumerate(shown):
            image.thumbnail((CELL - MARGIN // 2, CELL))
            sheet.paste(image, (left + number * CELL, top))
        height = max(image.height for image in shown)
    draw.text((left, top + height + 2), fitted(draw, pair.id, n_wide * CELL - MARGIN), fill="black", font=FONT)


def fitted(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The end of a text, cut to `width` pixels: ids differ at their ends."""
    line = " ".join(text.split())
    if draw.textlength(line, font=FONT) <= width:
        return line
    while line and draw.textlength("..." + line, font=FONT) > width:
        line = line[1:]
    return "..." + line


if __name__ == "__main__":
    end_with_reader()
    sys.exit(main())

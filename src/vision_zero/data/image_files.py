"""Decode one image safely, for every kind of image source.

An image is opened when it is first used, so every failure is a `BadImageError` that begins with the image's name.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 80_000_000
"""Largest width x height that is decoded, below the size at which Pillow begins to warn (89 million)."""

MAX_SIDE_RATIO = 200
"""Largest ratio of the long to the short side; the resize rule of Qwen2.5-VL refuses images beyond it."""

IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pnm"}
)
"""Extensions of image files, compared in lower case."""

# Only these decoders are tried, whatever the extension says: Pillow's EPS reader, for one, would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")

_SIXTEEN_BIT_MODES = frozenset({"I", "I;16", "I;16L", "I;16B", "I;16N"})


class BadImageError(ValueError):
    """An image, or the two images of a pair, cannot be used. The message begins with the name."""


@dataclass(frozen=True)
class ImageFile:
    """An image in a file of its own. Equal and hashable by path."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    def open(self) -> Image.Image:
        """The whole image, RGB. Raises BadImageError."""
        try:
            if os.path.getsize(self.path) == 0:
                raise BadImageError(f"{self.name}: the file is empty")
            with open(self.path, "rb") as stream:
                return decode(stream, self.name)
        except OSError as error:
            raise BadImageError(f"{self.name}: cannot be read: {error.strerror or error}") from error


def decode_bytes(data: bytes, name: str) -> Image.Image:
    """`decode` for an image that is held in memory, as data sets do."""
    if not data:
        raise BadImageError(f"{name}: the image has no bytes")
    return decode(io.BytesIO(data), name)


def decode(stream: IO[bytes], name: str) -> Image.Image:
    """The image in `stream`, decoded, turned as its EXIF orientation says, RGB.

    Transparency is laid on white, 16-bit grey is scaled to 8 bit, of an animation the first frame is taken. The size
    is checked before any pixel is decoded. Raises BadImageError for anything that is not a whole image.
    """
    try:
        with Image.open(stream, formats=_FORMATS) as image:
            check_size(image.size, name)
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image), name)
    except BadImageError:
        raise
    except UnidentifiedImageError as error:
        raise BadImageError(f"{name}: not an image of a known format ({', '.join(_FORMATS)})") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImageError(f"{name}: more than the allowed {MAX_PIXELS} pixels: {error}") from error
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on damaged files
        raise BadImageError(f"{name}: cannot be decoded, damaged or truncated: {error}") from error


def check_size(size: tuple[int, int], name: str) -> None:
    """Raises BadImageError for a (width, height) that is empty, beyond MAX_PIXELS or beyond MAX_SIDE_RATIO."""
    width, height = size
    if width < 1 or height < 1:
        raise BadImageError(f"{name}: the image is {width}x{height}, it has no pixels")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{name}: the image is {width}x{height}, more than the allowed {MAX_PIXELS} pixels")
    if max(size) > MAX_SIDE_RATIO * min(size):
        raise BadImageError(f"{name}: the image is {width}x{height}, its sides differ by more than {MAX_SIDE_RATIO}:1")


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in _SIXTEEN_BIT_MODES:
        return _from_sixteen_bit(image, name).convert("RGB")
    if image.mode == "F":
        raise BadImageError(f"{name}: the pixels are floating-point numbers, whose range is not known")
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    return image.convert("RGB")


def _from_sixteen_bit(image: Image.Image, name: str) -> Image.Image:
    # Pillow's own conversion to 8 bit clips at 255, which turns almost every 16-bit image white.
    lowest, highest = (float(value) for value in image.convert("I").getextrema())  # type: ignore[arg-type]
    if lowest < 0 or highest > 65535:
        raise BadImageError(f"{name}: grey values from {lowest:.0f} to {highest:.0f} are not 16-bit")
    return image.convert("I").point(lambda value: value * (255 / 65535)).convert("L")

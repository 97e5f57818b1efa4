"""Decode one image safely, for every kind of image source.

An image is opened when it is first used, so every failure is a `BadImageError` that begins with the image's name.
"""

import io
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from vision_zero.data.errors import LFS_ADVICE, LFS_POINTER, BadImageError

MAX_PIXELS = 80_000_000  # largest width x height that is decoded: Pillow begins to warn at 89 million
MAX_SIDE_RATIO = 200  # of the long to the short side: the resize rule of Qwen2.5-VL refuses images beyond it
IMAGE_EXTENSIONS = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm", ".pgm", ".pnm"}
)
"""Compared in lower case."""
DARK = "in the lowest quarter of 16 bits"
"""Key of `Image.info`: true if all values are so, which may be of 12 or 14 bits. No file says it; they look black."""

# Only these decoders are tried, whatever the extension says: Pillow's EPS reader, for one, would start Ghostscript.
_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "PPM")
_PNG = b"\x89PNG\r\n\x1a\n"
_NOT_PIXELS = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
"""Chunks of a PNG that no game looks at. Pillow refuses the whole file for one that is damaged or very long."""

_BITS, _SIGN, _WHITE_IS_ZERO = 258, 339, 262
"""TIFF tags: BitsPerSample, SampleFormat (1: unsigned), PhotometricInterpretation (0: white is zero)."""


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

    Transparency is laid on white, grey of 9 to 16 bits is scaled to 8, of an animation the first frame is taken. The
    size is checked before any pixel is decoded. Raises BadImageError for anything that is not a whole image.
    """
    try:
        return _decoded(stream, name)
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise a dozen unrelated types on damaged files
        stream.seek(0)
        data = stream.read(1 << 29)
        if data.startswith(_PNG):
            with suppress(Exception):
                return _decoded(io.BytesIO(_pixels_alone(data)), name)
        raise BadImageError(f"{name}: {_reason(error, data)}") from error


def _decoded(stream: IO[bytes], name: str) -> Image.Image:
    with Image.open(stream, formats=_FORMATS) as image:
        check_size(image.size, name)
        deep = ";16" in str(image.tile)  # what of the file it is to decode: gone when it is loaded
        image.load()
        try:
            turned = ImageOps.exif_transpose(image)
        except Exception as error:  # as many types as in `decode`
            raise BadImageError(
                f"{name}: its EXIF data are damaged ({error}), so which side is up is not known; save it without them"
            ) from error
        if image.mode in ("F", "I") or image.mode.startswith("I;16"):
            turned = _eight_bit(turned, name, getattr(image, "tag_v2", {}))
        elif turned.has_transparency_data:
            turned = Image.alpha_composite(Image.new("RGBA", turned.size, "white"), turned.convert("RGBA"))
    whole = turned.convert("RGB")
    whole.info[DARK] = deep and max(high for _, high in whole.getextrema()) < 64  # type: ignore[misc]
    return whole


def _eight_bit(image: Image.Image, name: str, tags: Mapping[int, Any]) -> Image.Image:
    """Grey of 9 to 16 bits as 8, where Pillow clips to white; `tags`: a TIFF's. Raises BadImageError for others."""
    bits, sign = max(tags.get(_BITS, (16,))), max(tags.get(_SIGN, (1,)))
    if image.mode == "F":
        raise BadImageError(f"{name}: its pixels are floating-point numbers of {bits} bits, whose range is not known")
    lowest, highest = (float(value) for value in image.convert("I").getextrema())  # type: ignore[arg-type]
    if bits > 16 or sign != 1 or lowest < 0 or highest >= 2**bits:
        raise BadImageError(
            f"{name}: its grey values are whole numbers of {bits} bits from {lowest:.0f} to {highest:.0f}, whose range "
            "is not known; save it with 8 or 16 bits"
        )
    scale, offset = 255 / (2**bits - 1), 0
    if tags.get(_WHITE_IS_ZERO) == 0:
        scale, offset = -scale, 255
    return image.convert("I").point(lambda value: value * scale + offset).convert("L")


def _pixels_alone(data: bytes) -> bytes:
    """A PNG without the chunks of _NOT_PIXELS. A chunk is its length, its kind, so many bytes and a checksum."""
    kept, at = [_PNG], len(_PNG)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if data[at + 4 : at + 8] not in _NOT_PIXELS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _reason(error: Exception, data: bytes) -> str:
    if data.startswith(LFS_POINTER):
        return LFS_ADVICE
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"more than the allowed {MAX_PIXELS} pixels: {error}"
    if not isinstance(error, UnidentifiedImageError):
        return f"cannot be decoded, damaged or truncated: {error}"
    for kind in _FORMATS:  # Image.open drops what the decoder of the format said, such as an unknown depth
        factory, accept = Image.OPEN[kind]
        if accept is not None and accept(data[:16]) is True:
            depth, stream = "", io.BytesIO(data)
            with suppress(Exception):
                tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])  # raises for other formats
                stream.seek(tags.next)
                tags.load(stream)
                depth = f" of {tags[_BITS]} bits a sample"
            try:
                factory(io.BytesIO(data), "")
            except Exception as reason:
                return f"a {kind} file{depth} that cannot be decoded: {reason}"
    return f"not an image of a known format ({', '.join(_FORMATS)})"


def check_size(size: tuple[int, int], name: str) -> None:
    """Raises BadImageError for a (width, height) that is empty, beyond MAX_PIXELS or beyond MAX_SIDE_RATIO."""
    width, height = size
    if width < 1 or height < 1:
        raise BadImageError(f"{name}: the image is {width}x{height}, it has no pixels")
    if width * height > MAX_PIXELS:
        raise BadImageError(f"{name}: the image is {width}x{height}, more than the allowed {MAX_PIXELS} pixels")
    if max(size) > MAX_SIDE_RATIO * min(size):
        raise BadImageError(f"{name}: the image is {width}x{height}, its sides differ by more than {MAX_SIDE_RATIO}:1")

"""Read a still picture as upright RGB pixels of the requested size.

    pixels = read_picture(blob, limits, fit)   # fit: (height, width) of the picture -> those of `pixels`

A JPEG is decoded at a half, a quarter or an eighth of its size if that is at least twice the
requested size: a photo of 200 megapixels takes 15 MB and 0.8 s, while decoding all of it takes 800
MB. Other formats are decoded at their full size.

Only the orientation is read from the metadata. Colour profiles are not applied, since the
processors that the models were trained with do not apply them either. Strong colours of a phone's
Display P3 therefore become a little paler.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    WebPImagePlugin,
)

from gve_ray.media.budget import RESAMPLING
from gve_ray.media.container.framing import missing_bytes
from gve_ray.media.limits import Limits, MediaError, Reason
from gve_ray.media.picture.exif import SIDEWAYS, TURNS, orientation, split_jpeg
from gve_ray.media.source import Blob

Fit = Callable[[int, int], tuple[int, int]]  # (height, width) -> (height, width)
_Box = tuple[float, float, float, float]

# The formats of browsers and cameras. Pillow reads dozens of others, one of which (EPS) runs a
# program. Image.open is not used, because it has its own pixel limit and reads the metadata of all
# pictures of an MPO.
_READERS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "WebP": WebPImagePlugin.WebPImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "AVIF": AvifImagePlugin.AvifImageFile,
}
_FORMATS = ", ".join([*_READERS, "HEIC"])
_MAGIC = {b"\xff\xd8": "JPEG", b"\x89PNG": "PNG", b"GIF8": "GIF", b"BM": "BMP"}
_AVIF_BRANDS = frozenset({b"avif", b"avis"})
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"})
_BRANDS_BYTES = 256  # at the start in which the brands of HEIC and AVIF are searched for
_JPEG_END = b"\xff\xd9"
# Two continuations of a JPEG, with all eight restart markers, since it may end before any of them.
_MORE_JPEG = [
    b"".join(bits * 64 + bytes([0xFF, 0xD0 + i]) for i in range(8)) + bits * 64 + _JPEG_END
    for bits in (b"\x00", b"\xaa")
]
_TRUNCATED = "truncated"  # in the messages of Pillow


@dataclass(frozen=True, kw_only=True, eq=False)
class _Stored:
    """A picture whose header has been read.

    data: its bytes; for a JPEG, without metadata. orientation: 1 to 8, as in EXIF.
    """

    kind: str
    data: bytes
    picture: ImageFile.ImageFile
    orientation: int

    @property
    def is_sideways(self) -> bool:
        return self.orientation in SIDEWAYS


def read_picture(blob: Blob, limits: Limits, fit: Fit) -> np.ndarray:
    """Return uint8 [h, w, 3] RGB, upright, composited on white, resized by antialiased bicubic.

    The file is JPEG, PNG, WebP, GIF, BMP, AVIF or, with pillow-heif, HEIC. If it has several
    pictures (animation, MPO), the first is read. fit: returns (h, w) for the (height, width) of the
    upright picture; its exceptions are passed on. Raises MediaError: not_a_picture,
    unsupported_codec, truncated, corrupt; too_many_pixels before any pixel is decoded.
    """
    with _media_errors(blob):
        stored = _open(blob, limits)
        whole = _upright_size(stored)
    height, width = fit(*whole)
    with _media_errors(blob):
        size = (height, width) if stored.is_sideways else (width, height)  # before it is turned
        picture, box = _decode(stored, size, limits)
        small = _laid_on_white(_in_colours(picture).resize(size, RESAMPLING, box=box))
        turn = TURNS[stored.orientation]
        return np.array(small if turn is None else small.transpose(turn))


def picture_size(blob: Blob, limits: Limits) -> tuple[int, int]:
    """Return (height, width) of the upright picture. Raises MediaError if its header cannot be read."""
    with _media_errors(blob):
        return _upright_size(_open(blob, limits))


def _open(blob: Blob, limits: Limits) -> _Stored:
    data = blob.read()
    kind = _kind(data[:_BRANDS_BYTES])
    if kind is None:
        raise MediaError(Reason.NOT_A_PICTURE, f"{blob.name}: not {_FORMATS}")
    exif = b""
    if kind == "JPEG":
        data, exif = split_jpeg(data)
    picture = _reader(kind)(io.BytesIO(data))
    limits.check_picture(*picture.size, scalable=kind == "JPEG")
    if kind == "PNG":
        picture.load()  # its EXIF may follow its pixels
    if kind != "HEIC":  # libheif has turned it
        exif = exif or picture.info.get("exif", b"")
    return _Stored(kind=kind, data=data, picture=picture, orientation=orientation(exif))


def _kind(head: bytes) -> str | None:
    """Return the format by the first bytes; None if they are not a picture's."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    if head[4:8] == b"ftyp":
        end = min(int.from_bytes(head[:4], "big"), len(head))
        brands = {head[8:12], *(head[at : at + 4] for at in range(16, end - 3, 4))}
        return "AVIF" if brands & _AVIF_BRANDS else "HEIC" if brands & _HEIC_BRANDS else None
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)


def _reader(kind: str) -> type[ImageFile.ImageFile]:
    if kind in _READERS:
        return _READERS[kind]
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise MediaError(
            Reason.UNSUPPORTED_CODEC, "a HEIC picture, which needs pillow-heif: pip install 'gve-ray[heic]'"
        ) from error
    reader: type[ImageFile.ImageFile] = HeifImageFile
    return reader


def _upright_size(stored: _Stored) -> tuple[int, int]:
    width, height = stored.picture.size
    return (width, height) if stored.is_sideways else (height, width)


def _decode(stored: _Stored, size: tuple[int, int], limits: Limits) -> tuple[Image.Image, _Box | None]:
    """Decode, and return the part of the result that is the picture; a scaled JPEG may end within a pixel.

    size: (width, height) that it will be resized to.
    """
    picture = stored.picture
    if stored.kind != "JPEG":
        picture.load()
        return picture, None
    width, height = picture.size
    # Twice the size is enough for the resize. A picture above the limit is never decoded at full
    # size.
    most = 2 if width * height > limits.max_side_pixels else 1
    draft_size = (min(2 * size[0], width // most), min(2 * size[1], height // most))
    try:
        return _load_jpeg(picture, draft_size)
    except OSError as error:
        whole = (
            _without_end(stored.data, draft_size if most > 1 else None) if _TRUNCATED in str(error) else None
        )
        if whole is None:
            raise
        return whole


def _load_jpeg(
    picture: ImageFile.ImageFile, draft_size: tuple[int, int] | None
) -> tuple[Image.Image, _Box | None]:
    """Decode at the smallest scale that is not below `draft_size`, (width, height); None: at full size."""
    drafted = picture.draft(None, draft_size) if draft_size else None
    picture.load()
    return picture, drafted and drafted[1]


def _without_end(data: bytes, draft_size: tuple[int, int] | None) -> tuple[Image.Image, _Box | None] | None:
    """Decode a JPEG that lacks only its end marker; None if more of it is missing.

    No byte after a complete scan is read, so two different continuations give the same pixels.
    """
    data = data.removesuffix(_JPEG_END[:1])
    try:
        (picture, box), (other, _) = (
            _load_jpeg(JpegImagePlugin.JpegImageFile(io.BytesIO(data + more)), draft_size)
            for more in _MORE_JPEG
        )
    except OSError:
        return None
    return None if ImageChops.difference(picture, other).getbbox() else (picture, box)


def rgb_on_white(picture: Image.Image) -> Image.Image:
    """Convert a Pillow picture to mode RGB, composited on white."""
    return _laid_on_white(_in_colours(picture))


def _in_colours(picture: Image.Image) -> Image.Image:
    """Convert to RGB, or to RGBA if something is transparent."""
    if picture.mode.startswith("I;16"):  # Pillow would make every value above 255 white
        deep, hidden = np.asarray(picture), picture.info.get("transparency")
        picture = Image.fromarray((deep >> 8).astype(np.uint8))
        if hidden is not None:  # a grey level
            picture.putalpha(Image.fromarray(np.where(deep == hidden, 0, 255).astype(np.uint8)))
    mode = "RGBA" if picture.has_transparency_data else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)


def _laid_on_white(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


@contextmanager
def _media_errors(blob: Blob) -> Iterator[None]:
    """Convert the errors of a parser to MediaError; a damaged file can raise any exception."""
    try:
        yield
    except (MediaError, MemoryError):
        raise
    except Image.DecompressionBombError as error:  # a frame of a GIF is larger than its screen
        raise MediaError(Reason.TOO_MANY_PIXELS, f"{blob.name}: {error}") from error
    except Exception as error:
        cut = _TRUNCATED in str(error).lower() or missing_bytes(blob) > 0
        reason = Reason.TRUNCATED if cut else Reason.CORRUPT
        raise MediaError(reason, f"{blob.name}: {error}") from error

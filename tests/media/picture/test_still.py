import io
import random
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from gve_ray.media import DecodeProcess, Limits, MediaError, encode_jpeg, read_frames, read_image
from tests.media.pictures import large_jpeg
from tests.media.videos import picture, read_number


def test_an_image_is_one_frame_within_the_budget(tmp_path):
    path = tmp_path / "wide.png"
    Image.fromarray(picture(5, 1400, 700)).save(path)
    frames = read_image(path)
    assert frames.pixels.shape == (1, 280, 560, 3)  # root(1400*700 / (200*28*28)) = 2.5
    assert (frames.fps, frames.duration, frames.total_frames) == (0.0, 0.0, 1)
    assert read_number(frames.pixels[0]) == 5


def test_transparency_lies_on_white(tmp_path):
    path = tmp_path / "logo.png"
    Image.new("RGBA", (56, 56), (0, 0, 0, 0)).save(path)
    assert read_image(path).pixels.min() == 255


def test_a_picture_beyond_the_pixel_limit_is_refused(tmp_path):
    path = tmp_path / "big.png"
    Image.new("RGB", (200, 200)).save(path)
    with pytest.raises(MediaError) as caught:
        read_image(path, limits=Limits(max_side_pixels=100 * 100))
    assert caught.value.reason == "too_many_pixels"


def saved(picture: Image.Image, kind: str, **settings: object) -> bytes:
    """A picture as a file's bytes."""
    out = io.BytesIO()
    picture.save(out, kind, **settings)
    return out.getvalue()


NUMBERED = Image.fromarray(picture(37, 140, 112))


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_what_cameras_and_browsers_write_is_read(kind):
    assert read_number(read_image(saved(NUMBERED, kind)).pixels[0]) == 37


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF"])
def test_of_an_animation_the_first_picture_is_read(kind):
    others = [Image.fromarray(picture(number, 140, 112)) for number in range(100, 140)]
    data = saved(NUMBERED, kind, save_all=True, append_images=others, duration=50)
    assert read_number(read_image(data).pixels[0]) == 37


def exact(data: bytes, side: int = 56) -> np.ndarray:
    """A picture of `side` pixels as it is read: that size is left as it is."""
    return read_image(data, max_pixels=side * side, min_pixels=28 * 28).pixels[0]


def test_sixteen_bits_keep_their_upper_eight():
    grey = (np.arange(56 * 56, dtype=np.uint32).reshape(56, 56) * 20).astype(np.uint16)  # 0 to 62,700
    expected = np.repeat((grey // 256)[:, :, None], 3, axis=2)
    assert np.array_equal(exact(saved(Image.fromarray(grey), "PNG")), expected)
    expected[1, 1] = 255  # 57 * 20, made transparent: it has no other pixel
    assert np.array_equal(exact(saved(Image.fromarray(grey), "PNG", transparency=1140)), expected)


def test_palettes_and_greys_are_read_in_their_colours():
    red, blue = (200, 30, 10), (10, 20, 220)
    plain = Image.new("RGB", (56, 56), red)
    plain.paste(blue, (0, 0, 28, 56))
    expected = np.array(plain)
    palette = plain.quantize(2)
    assert np.array_equal(exact(saved(palette, "PNG")), expected)
    assert np.array_equal(exact(saved(palette, "GIF")), expected)
    hidden = palette.getpixel((0, 0))  # the left half made transparent
    expected[:, :28] = 255
    assert np.array_equal(exact(saved(palette, "PNG", transparency=hidden)), expected)
    assert np.array_equal(exact(saved(palette, "GIF", transparency=hidden)), expected)
    half = Image.merge("LA", [Image.new("L", (56, 56), 100), Image.new("L", (56, 56), 51)])
    assert np.unique(exact(saved(half, "PNG"))).tolist() == [224]  # 100 * 0.2 + 255 * 0.8
    assert exact(saved(Image.new("1", (56, 56), 1), "PNG")).min() == 255


def test_cmyk_is_read_in_its_colours():
    ink = Image.new("CMYK", (56, 56), (0, 204, 204, 0))  # no cyan: red; a fifth of green and blue is left
    read = exact(saved(ink, "JPEG", quality=100))
    assert np.abs(read.astype(int) - (255, 51, 51)).max() <= 3


def with_size(kind: str, width: int, height: int) -> bytes:
    """A small file that states a huge size: just what decides that is in it, no pixels of that size."""
    if kind == "PNG":
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(b"")),
        ]
        body = b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in [*chunks, (b"IEND", b"")]
        )
        return b"\x89PNG\r\n\x1a\n" + body
    data = bytearray(saved(Image.new("RGB", (16, 16)), kind.removesuffix(" frame")))
    if kind == "GIF":  # the screen
        struct.pack_into("<HH", data, 6, width, height)
    elif kind == "GIF frame":  # a picture larger than its screen
        struct.pack_into("<HH", data, data.index(b",\0\0\0\0") + 5, width, height)
    elif kind == "BMP":
        struct.pack_into("<ii", data, 18, width, height)
    elif kind == "JPEG":
        struct.pack_into(">HH", data, data.index(b"\xff\xc0") + 5, height, width)
    return bytes(data)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "GIF frame", "BMP", "JPEG"])
@pytest.mark.parametrize("side", [17_000, 50_000])
def test_a_bomb_is_refused_by_its_head(kind, side):
    with pytest.raises(MediaError) as caught:
        read_image(with_size(kind, side, side))
    # Were its pixels looked for, it would be truncated or corrupt.
    assert caught.value.reason == "too_many_pixels"


def test_a_bomb_in_a_webp_is_refused():
    data = bytearray(saved(NUMBERED, "WEBP", save_all=True, append_images=[NUMBERED.rotate(180)]))
    at = data.index(b"VP8X") + 12
    data[at : at + 6] = (16_382).to_bytes(3, "little") * 2
    with pytest.raises(MediaError) as caught:
        read_image(bytes(data))
    assert caught.value.reason == "too_many_pixels"


@pytest.mark.parametrize(
    "data,reason",
    [
        (b"", "empty"),
        (b"just some text, called picture.png", "not_a_picture"),
        (
            b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
            "not_a_picture",
        ),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) show\n", "not_a_picture"),
        (b"%PDF-1.7\n", "not_a_picture"),
        (b"<html><img src=x></html>", "not_a_picture"),
        (bytes(5000), "not_a_picture"),
        (saved(NUMBERED, "TIFF"), "not_a_picture"),
        (b"\x89PNG\r\n\x1a\n" + b"nothing that a head could be", "corrupt"),
        (b"\xff\xd8", "corrupt"),
    ],
)
def test_what_is_no_picture_says_so(data, reason):
    with pytest.raises(MediaError) as caught:
        read_image(data)
    assert caught.value.reason == reason
    assert "0x" not in str(caught.value)  # no memory address in the message


def test_a_video_is_no_picture(make):
    with pytest.raises(MediaError) as caught:
        read_image(make(frames=5))
    assert caught.value.reason == "not_a_picture"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_a_picture_cut_in_half_is_truncated(kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), kind)
    with pytest.raises(MediaError) as caught:
        read_image(data[: len(data) // 2])
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning", "ignore:Invalid APNG")
def test_damage_anywhere_is_a_media_error(kind):
    """Damage that the parser detects; other damage is visible only in the pixels."""
    rng = random.Random(kind)
    noise = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), kind)
    reasons = []
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 3, 10])):
            data[rng.randrange(rng.choice([64, len(data)]))] = rng.randrange(256)
        try:
            assert read_image(bytes(data)).pixels.shape[0] == 1
        except MediaError as error:
            reasons.append(error.reason)
    assert len(reasons) > 10
    assert set(reasons) <= {"corrupt", "truncated", "too_many_pixels", "not_a_picture", "unusable_shape"}


def test_a_sliver_is_refused():
    with pytest.raises(MediaError) as caught:
        read_image(saved(Image.new("RGB", (900, 3)), "PNG"))
    assert caught.value.reason == "unusable_shape"


# How a camera that is held otherwise stores what it sees: the inverse of what shows it upright.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def held(value: int, kind: str) -> bytes:
    """NUMBERED by a camera that states this orientation."""
    exif = Image.Exif()
    exif[0x0112] = value
    turn = STORED[value]
    return saved(NUMBERED if turn is None else NUMBERED.transpose(turn), kind, exif=exif)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "AVIF"])
@pytest.mark.parametrize("value", STORED)
def test_all_orientations_are_shown_upright(kind, value):
    """AVIF states it in its own boxes too (irot, imir), and must not be turned twice."""
    read = read_image(held(value, kind)).pixels[0]
    assert read.shape == (112, 140, 3)
    assert np.abs(read.astype(int) - np.asarray(NUMBERED).astype(int)).mean() < 4
    assert read_number(read) == 37


def test_exif_after_the_pixels_of_a_png_counts():
    data = held(6, "PNG")
    at = data.index(b"eXIf") - 4
    end = at + 12 + int.from_bytes(data[at : at + 4], "big")
    moved = data[:at] + data[end:-12] + data[at:end] + data[-12:]  # before IEND, which takes 12 bytes
    assert moved.index(b"eXIf") > moved.index(b"IDAT")
    assert read_number(read_image(moved).pixels[0]) == 37


def test_a_folder_of_turned_frames_is_upright(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_bytes(held(6, "JPEG"))
    frames = read_frames(tmp_path, k=3)
    assert frames.pixels.shape == (3, 112, 140, 3)
    assert [read_number(pixels) for pixels in frames.pixels] == [37, 37, 37]


@pytest.mark.parametrize("value", STORED)
@pytest.mark.parametrize("kind", ["heic", "mif1"])
def test_heic_is_read_and_turned_once(value, kind):
    heif = pytest.importorskip("pillow_heif")
    exif = Image.Exif()
    exif[0x0112] = value
    turn = STORED[value]
    out = io.BytesIO()
    stored = NUMBERED if turn is None else NUMBERED.transpose(turn)
    heif.from_pillow(stored).save(out, quality=90, exif=exif.tobytes())
    data = out.getvalue().replace(b"ftypheic", b"ftyp" + kind.encode(), 1)
    read = read_image(data).pixels[0]
    assert read.shape == (112, 140, 3)
    assert read_number(read) == 37
    with pytest.raises(MediaError) as caught:
        read_image(data[: len(data) // 2])
    assert caught.value.reason == "truncated"


def test_heic_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(MediaError, match=r"gve-ray\[heic\]") as caught:
        read_image(struct.pack(">I4s4sI4s", 20, b"ftyp", b"heic", 0, b"mif1") + bytes(100))
    assert caught.value.reason == "unsupported_codec"


# Megapixels: 24 and 48 (iPhone), 50, 108 and 200 (Android)
PHONES = [(5712, 4284), (8064, 6048), (8160, 6120), (12_000, 9000), (16_320, 12_240)]


@pytest.fixture(scope="module")
def small_process():
    with DecodeProcess(Limits(memory_bytes=1 << 28)) as process:  # 256 MB; all of the largest takes 800
        yield process


@pytest.mark.parametrize("size", PHONES)
def test_a_phones_photo_is_read_within_little_memory(small_process, size):
    data, colours = large_jpeg(*size)
    read = small_process.read_image(data).pixels[0]
    assert read.shape == (336, 448, 3)
    centres = (np.arange(len(colours)) + 0.5) * 448 / len(colours)
    assert np.abs(read[:, centres.astype(int)].astype(int) - colours).max() <= 4


def test_a_scaled_photo_looks_like_one_that_was_decoded_whole():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 255, (30, 40, 3), dtype=np.uint8))
    photo = coarse.resize((2836, 2132), Image.Resampling.BICUBIC)  # at an eighth 354.5 x 266.5
    photo.paste((255, 255, 255), (1000, 700, 1400, 1100))
    data = saved(photo, "JPEG", quality=92)
    read = read_image(data, max_pixels=140 * 112).pixels[0]
    whole = Image.open(io.BytesIO(data)).convert("RGB")
    expected = np.asarray(whole.resize(read.shape[1::-1], Image.Resampling.BICUBIC)).astype(int)
    assert np.abs(read - expected).mean() < 1
    assert np.abs(read - expected).max() < 24  # at the white edges


def test_our_limit_counts_and_not_pillows():
    limits = Limits(max_side_pixels=25_000 * 25_000)
    with pytest.raises(MediaError) as caught:
        read_image(with_size("PNG", 20_000, 20_000), limits=limits)
    assert caught.value.reason != "too_many_pixels"


# Kind and bytes of one EXIF value that no parser expects, next to a valid orientation.
ODD = {
    "signed rational by zero": (10, struct.pack("<ii", -1, 0)),
    "rational by zero": (5, struct.pack("<II", 0, 0)),
    "one letter": (2, b"7\0\0\0"),
    "nothing": (2, b""),
    "float NaN": (12, struct.pack("<d", float("nan"))),
    "no kind there is": (77, b"\1\2\3\4"),
}


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
@pytest.mark.parametrize("tag", [0x10F, 0x11A, 0x128, 0x8769, 0x8825])
@pytest.mark.parametrize("count", [0, 1, 1 << 30])
def test_odd_tags_leave_a_sound_jpeg_readable(odd, tag, count):
    kind, value = odd
    entries = sorted([(0x112, 3, 1, struct.pack("<HH", 6, 0)), (tag, kind, count, struct.pack("<I", 38))])
    body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2)
    body += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4) + value
    plain = saved(NUMBERED.transpose(Image.Transpose.ROTATE_90), "JPEG", quality=92)
    data = plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]
    assert read_number(read_image(data).pixels[0]) == 37


@pytest.mark.parametrize("settings", [{}, {"progressive": True}, {"restart_marker_blocks": 4}])
def test_a_jpeg_without_its_end_marker_is_read(settings):
    noise = np.random.default_rng(0).integers(0, 255, (224, 280, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), "JPEG", quality=90, **settings)
    expected = read_image(data).pixels
    for missing in (1, 2):
        assert np.array_equal(read_image(data[:-missing]).pixels, expected)
    for left in (0.3, 0.5, 0.9, 0.99):
        with pytest.raises(MediaError) as caught:
            read_image(data[: int(len(data) * left)])
        assert caught.value.reason == "truncated"


def test_what_follows_a_jpeg_is_no_part_of_it(make):
    """A motion photo's film, a trailer of the phone's maker."""
    plain = encode_jpeg(picture(37, 140, 112))
    for more in (make(frames=5), b"SEFT\0\1", plain, bytes(99)):
        assert read_number(read_image(plain + more).pixels[0]) == 37

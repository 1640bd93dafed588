import io
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from gve_ray.media import FrameRequest, Limits, MediaError, decode, encode_jpeg, read_frames, read_image
from tests.media.videos import picture, read_number


@pytest.fixture
def folder(tmp_path):
    for number in range(6):
        (tmp_path / f"{number:03d}.jpg").write_bytes(encode_jpeg(picture(number, 140, 112)))
    (tmp_path / "notes.txt").write_text("not a frame")
    return tmp_path


def test_frames_come_in_name_order_at_one_a_second(folder):
    frames = read_frames(folder, k=3)
    assert frames.indices.tolist() == [0, 2, 5]
    assert frames.timestamps.tolist() == [0.0, 2.0, 5.0]
    assert (frames.fps, frames.duration, frames.total_frames) == (1.0, 6.0, 6)
    assert [read_number(p) for p in frames.pixels] == [0, 2, 5]


def test_a_folder_has_facts_and_a_hash_of_its_pictures(folder):
    first = decode(folder, [FrameRequest(k=2, start=1.0, end=3.0)])
    assert (first.info.container, first.info.codec) == ("folder", "jpg")
    assert (first.info.width, first.info.height) == (140, 112)
    assert [read_number(p) for p in first.samples[0].pixels] == [1, 3]
    (folder / "notes.txt").write_text("changed")
    assert decode(str(folder), [FrameRequest(k=2)]).content_hash == first.content_hash
    (folder / "005.jpg").write_bytes(encode_jpeg(picture(9, 140, 112)))
    assert decode(folder, [FrameRequest(k=2)]).content_hash != first.content_hash


def test_an_empty_folder_and_a_broken_frame_have_reasons(folder, tmp_path_factory):
    with pytest.raises(MediaError) as caught:
        read_frames(tmp_path_factory.mktemp("none"))
    assert caught.value.reason == "empty"
    (folder / "002.jpg").write_bytes(b"\xff\xd8 not really")
    with pytest.raises(MediaError, match=r"002\.jpg") as caught:
        read_frames(folder, k=6)
    assert caught.value.reason == "corrupt"


def test_an_image_is_one_frame_within_the_budget(tmp_path):
    path = tmp_path / "wide.png"
    Image.fromarray(picture(5, 1400, 700)).save(path)
    frames = read_image(path)
    assert frames.pixels.shape == (1, 280, 560, 3)  # root(1400*700 / (200*28*28)) = 2.5
    assert (frames.fps, frames.duration, frames.total_frames) == (0.0, 0.0, 1)
    assert read_number(frames.pixels[0]) == 5


def test_exif_orientation_is_applied(tmp_path):
    upright = picture(11, 140, 112)
    exif = Image.Exif()
    exif[0x0112] = 6  # "rotate 90 degrees clockwise to show"
    path = tmp_path / "phone.png"
    Image.fromarray(np.rot90(upright).copy()).save(path, exif=exif)
    assert read_number(read_image(path).pixels[0]) == 11


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
    read = exact(saved(Image.fromarray(grey), "PNG"))
    assert np.array_equal(read, np.repeat((grey // 256)[:, :, None], 3, axis=2))


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
    assert "0x" not in str(caught.value)  # where an object lies in memory is nobody's business


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
    """Whatever the parser stumbles over; some damage is only seen by the eye."""
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

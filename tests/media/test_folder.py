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

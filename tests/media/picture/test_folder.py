import io

import pytest
from PIL import Image

from gve_ray.media import FrameRequest, MediaError, decode, encode_jpeg, read_frames
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


@pytest.mark.parametrize("suffix", ["avif", "heic", "HEIF"])
def test_frames_may_be_avif_or_heic(tmp_path, suffix):
    if suffix != "avif":
        pytest.importorskip("pillow_heif").register_heif_opener()
    for number in range(3):
        out = io.BytesIO()
        frame = Image.fromarray(picture(number, 140, 112))
        frame.save(out, "AVIF" if suffix == "avif" else "HEIF", quality=95)
        (tmp_path / f"{number}.{suffix}").write_bytes(out.getvalue())
    frames = read_frames(tmp_path, k=3)
    assert [read_number(p) for p in frames.pixels] == [0, 1, 2]

import io

import numpy as np
import pytest
from PIL import Image

from gve_ray.media import FrameRequest, Limits, MediaError, decode, read_frames
from tests.media.videos import picture, read_number


def webp(milliseconds: list[int], *, mode: str = "RGB") -> bytes:
    """An animation whose frames show their number for these times."""
    pictures = [Image.fromarray(picture(i, 140, 112)).convert(mode) for i in range(len(milliseconds))]
    out = io.BytesIO()
    pictures[0].save(
        out, "WEBP", save_all=True, append_images=pictures[1:], duration=milliseconds, lossless=True
    )
    return out.getvalue()


def test_frames_are_shown_as_long_as_the_file_says():
    data = webp([40, 40, 200, 200, 300])
    decoded = decode(data, [FrameRequest(k=3), FrameRequest(at=(0.1, 0.3, 0.7))])
    assert [read_number(p) for p in decoded.samples[0].pixels] == [0, 2, 4]
    assert decoded.samples[0].timestamps == pytest.approx([0.0, 0.08, 0.48])
    assert [read_number(p) for p in decoded.samples[1].pixels] == [2, 3, 4]
    assert (decoded.info.container, decoded.info.total_frames) == ("webp", 5)
    assert (decoded.info.width, decoded.info.height) == (140, 112)
    assert decoded.info.duration == pytest.approx(0.78)
    assert np.array_equal(read_frames(data, k=3).pixels, decoded.samples[0].pixels)


def test_frames_of_no_time_last_a_tenth_of_a_second_as_in_browsers():
    assert decode(webp([0, 5, 50]), [FrameRequest(k=1)]).info.duration == pytest.approx(0.25)


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (56, 56), (10, 200, 10, 0))
    solid = Image.new("RGBA", (56, 56), (10, 200, 10, 255))
    out = io.BytesIO()
    clear.save(out, "WEBP", save_all=True, append_images=[solid], duration=100, lossless=True)
    pixels = read_frames(out.getvalue(), k=2).pixels
    assert pixels[0, 9, 9].tolist() == [255, 255, 255]
    assert pixels[1, 9, 9].tolist() == [10, 200, 10]


def test_refusals_have_reasons():
    data = webp([100] * 6)
    for broken, limits, reason in [
        (data[: len(data) // 2], Limits(), "truncated"),
        (data, Limits(max_duration=0.5), "too_long"),
        (data, Limits(max_frames=5), "too_many_frames"),
        (data, Limits(max_side_pixels=1000), "too_many_pixels"),
        (data[:200] + bytes(len(data) - 200), Limits(), "corrupt"),
    ]:
        with pytest.raises(MediaError) as caught:
            decode(broken, [FrameRequest(k=2)], limits=limits)
        assert caught.value.reason == reason, reason

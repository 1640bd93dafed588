import numpy as np
import pytest

from gve_ray.media import MediaError, decode_jpeg, encode_jpeg


def test_colours_survive_at_single_pixel_edges():
    pixels = np.zeros((56, 84, 3), np.uint8)
    pixels[:, 0::2] = (220, 30, 30)
    pixels[:, 1::2] = (30, 30, 220)  # halved chroma would mix these to one purple
    back = decode_jpeg(encode_jpeg(pixels, quality=95))
    assert back.shape == (56, 84, 3)
    assert back.dtype == np.uint8
    assert np.abs(back.astype(int) - pixels).mean() < 6


def test_quality_trades_bytes_for_detail():
    noise = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    assert (
        len(encode_jpeg(noise, quality=50)) < len(encode_jpeg(noise)) < len(encode_jpeg(noise, quality=100))
    )


def test_the_same_pixels_give_the_same_bytes():
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    assert encode_jpeg(pixels) == encode_jpeg(pixels.copy())


@pytest.mark.parametrize(
    "pixels", [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)]
)
def test_only_rgb_bytes_are_encoded(pixels):
    with pytest.raises(ValueError, match="uint8"):
        encode_jpeg(pixels)


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_broken_bytes_are_refused(cut):
    data = encode_jpeg(np.random.default_rng(2).integers(0, 256, (56, 56, 3), dtype=np.uint8))
    with pytest.raises(MediaError) as caught:
        decode_jpeg(data[:cut])
    assert caught.value.reason == "corrupt"

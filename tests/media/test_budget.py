import numpy as np
import pytest

from gve_ray.media import FACTOR, MAX_PIXELS, MIN_PIXELS, fit_pixels
from gve_ray.media.budget import resize


@pytest.mark.parametrize(
    "size, expected",
    [
        (
            (1080, 1920),
            (280, 504),
        ),  # 1080*1920/156800 = 13.224, root 3.6366: 296.98 -> 10*28, 527.97 -> 18*28
        ((112, 112), (112, 112)),
        ((128, 128), (140, 140)),  # 128/28 = 4.57 rounds to 5
        ((10, 10), (56, 56)),  # grown to 4*28*28: root(3136/100) = 5.6 -> 56
        ((98, 142), (112, 140)),  # 98/28 = 3.5 rounds to the even 4
    ],
)
def test_known_sizes(size, expected):
    assert fit_pixels(*size) == expected


def test_the_rule_is_the_models_own():
    smart_resize = pytest.importorskip("transformers.models.qwen2_vl.image_processing_qwen2_vl").smart_resize
    rng = np.random.default_rng(0)
    for _ in range(2000):
        height, width = (int(side) for side in np.exp(rng.uniform(np.log(8), np.log(4000), 2)))
        if max(height, width) > 200 * min(height, width):
            continue
        tokens = int(rng.integers(4, 1600))
        least = int(rng.integers(1, tokens + 1))
        bounds = {"max_pixels": tokens * 784, "min_pixels": least * 784}
        assert fit_pixels(height, width, **bounds) == smart_resize(height, width, factor=28, **bounds)


def test_sides_are_whole_tokens_within_the_budget():
    rng = np.random.default_rng(1)
    for height, width in rng.integers(16, 3000, (500, 2)).tolist():
        new_height, new_width = fit_pixels(height, width)
        assert new_height % FACTOR == new_width % FACTOR == 0
        assert MIN_PIXELS <= new_height * new_width <= MAX_PIXELS or max(height, width) > 20 * min(
            height, width
        )


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"height": 0, "width": 5}, "5x0"),
        ({"height": 10, "width": 2001}, "200-fold"),
        ({"height": 10, "width": 10, "max_pixels": 700}, "max_pixels=700"),
        ({"height": 10, "width": 10, "max_pixels": 784, "min_pixels": 1000}, "min_pixels=1000"),
    ],
)
def test_impossible_budgets_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        fit_pixels(**arguments)


def test_shrinking_averages_what_it_drops():
    # Stripes of one pixel at twice the target size: without antialiasing they turn into bars or one
    # flat extreme; with it every pixel is their mean, 127.5, but for the borders.
    stripes = np.zeros((112, 112, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize(stripes, 56, 56)
    assert small.shape == (56, 56, 3)
    assert np.abs(small[:, 4:-4].astype(int) - 127).max() <= 2


def test_resize_is_close_to_the_processors_own():
    torch = pytest.importorskip("torch")
    pictures = pytest.importorskip("torchvision.transforms.v2.functional")
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (9, 16, 3), dtype=np.uint8)
    picture = resize(coarse, 270, 480)
    ours = resize(picture, 140, 252)
    tensor = torch.from_numpy(picture).permute(2, 0, 1)
    mode = pictures.InterpolationMode.BICUBIC
    theirs = pictures.resize(tensor, [140, 252], interpolation=mode, antialias=True).permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - theirs).max() <= 2

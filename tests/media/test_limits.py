import pytest

from gve_ray.media import Limits, MediaError


@pytest.mark.parametrize("name", ["max_bytes", "max_duration", "wall_clock_s", "memory_bytes"])
def test_limits_are_above_zero(name):
    with pytest.raises(ValueError, match=rf"{name}=0"):
        Limits(**{name: 0})


def test_a_file_at_the_limit_passes_and_one_over_does_not():
    limits = Limits(max_bytes=100, max_side_pixels=50, max_duration=9.0, max_frames=3)
    limits.check_bytes(100)
    limits.check_picture(10, 5)
    limits.check_length(9.0, 3)
    for check, arguments, reason in (
        (limits.check_bytes, (101,), "too_large"),
        (limits.check_bytes, (0,), "empty"),
        (limits.check_picture, (51, 1), "too_many_pixels"),
        (limits.check_picture, (0, 5), "corrupt"),
        (limits.check_length, (9.01, 3), "too_long"),
        (limits.check_length, (9.0, 4), "too_many_frames"),
    ):
        with pytest.raises(MediaError) as caught:
            check(*arguments)
        assert caught.value.reason == reason

import numpy as np
import pytest

from gve_ray.media.video.orientation import Orientation

# ISO/IEC 14496-12, 8.3.2: stored (x, y) is displayed at (a x + c y, b x + d y), y downwards.
# The stored picture is   1 2 3
#                         4 5 6
DISPLAYED = {
    (1, 0, 0, 1): [[1, 2, 3], [4, 5, 6]],
    (-1, 0, 0, 1): [[3, 2, 1], [6, 5, 4]],
    (1, 0, 0, -1): [[4, 5, 6], [1, 2, 3]],
    (-1, 0, 0, -1): [[6, 5, 4], [3, 2, 1]],
    (0, 1, -1, 0): [[4, 1], [5, 2], [6, 3]],  # x goes down, y goes left
    (0, -1, 1, 0): [[3, 6], [2, 5], [1, 4]],
    (0, 1, 1, 0): [[1, 4], [2, 5], [3, 6]],
    (0, -1, -1, 0): [[6, 3], [5, 2], [4, 1]],
}


@pytest.mark.parametrize("matrix", DISPLAYED)
def test_all_eight_matrices_show_what_the_standard_says(matrix):
    stored = np.repeat(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)[..., None], 3, axis=2)
    orientation = Orientation.from_matrix(*(entry * 65536 for entry in matrix))
    shown = orientation.apply(stored)
    assert shown[..., 0].tolist() == DISPLAYED[matrix]
    assert orientation.swaps_sides == (shown.shape[:2] == (3, 2))


def test_other_angles_go_to_the_nearest_quarter_turn():
    tilted = [round(65536 * v) for v in (np.cos(1.5), np.sin(1.5), -np.sin(1.5), np.cos(1.5))]
    assert Orientation.from_matrix(*tilted) == Orientation(rotation=90)  # 86 degrees
    assert Orientation.from_matrix(0, 0, 0, 0) == Orientation()

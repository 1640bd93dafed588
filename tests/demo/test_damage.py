"""File damage: each function causes its defect, and increases the damage until the defect shows."""

import random
from pathlib import Path

import numpy as np
import pytest

from gve_ray.demo import damage
from gve_ray.demo.render import encode_mp4


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """A video of a moving bar with twelve frames."""
    pictures = []
    for i in range(12):
        picture = np.full((64, 96, 3), 90, np.uint8)
        picture[:, 8 * i : 8 * i + 8] = (220, 40, 40)
        pictures.append(picture)
    encode_mp4(tmp_path / "a.mp4", pictures, fps=10, width=96, height=64)
    return tmp_path / "a.mp4"


def test_intact_frames_are_counted(video: Path, tmp_path: Path) -> None:
    assert damage.count_intact_frames(video) == 12
    (tmp_path / "b.mp4").write_bytes(b"not a video")
    assert damage.count_intact_frames(tmp_path / "b.mp4") is None


def test_moving_the_index_keeps_the_frames(video: Path) -> None:
    before = video.read_bytes()
    damage.move_index_first(video)
    after = video.read_bytes()
    assert before.find(b"moov") > before.find(b"mdat")
    assert after.find(b"moov") < after.find(b"mdat")
    assert damage.count_intact_frames(video) == 12
    assert list(video.parent.iterdir()) == [video]


def test_a_cut_without_effect_is_increased(video: Path) -> None:
    damage.move_index_first(video)
    whole = video.read_bytes()
    video.write_bytes(whole + bytes(len(whole)))  # padding, so that the last half of the file is not video
    kept = damage.cut(video, 0.9, frames=12)
    assert kept < 0.5
    intact = damage.count_intact_frames(video)
    assert intact is None or intact < 12


def test_overwriting_keeps_the_size_and_breaks_the_middle(video: Path) -> None:
    before = video.read_bytes()
    count = damage.overwrite_middle(video, np.random.default_rng(1), frames=12)
    after = video.read_bytes()
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert 0 < len(changed) <= count == max(changed) - min(changed) + 1
    assert before.find(b"mdat") < min(changed)
    assert max(changed) < before.find(b"moov")
    intact = damage.count_intact_frames(video)
    assert intact is None or intact < 12


def test_files_that_are_not_videos_do_not_decode(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    for what in damage.NOT_A_VIDEO:
        damage.write_not_a_video(tmp_path / f"{what}.mp4", what, picture, random.Random(1))
        assert damage.count_intact_frames(tmp_path / f"{what}.mp4") in (None, 1)
    with pytest.raises(ValueError, match="what='gif'"):
        damage.write_not_a_video(tmp_path / "x.mp4", "gif", picture, random.Random(1))


def test_rotation_needs_a_track_header(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no boxes here")
    with pytest.raises(ValueError, match="track header"):
        damage.set_display_rotation(tmp_path / "a.mp4", 90, stored_width=8, stored_height=8)

"""File damage: each tool leaves what it says, and damage that does no harm is made worse until it does."""

import random
from pathlib import Path

import numpy as np
import pytest

from gve_ray.demo import damage
from gve_ray.demo.render import encode_mp4


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Twelve frames of a moving bar."""
    pictures = []
    for i in range(12):
        picture = np.full((64, 96, 3), 90, np.uint8)
        picture[:, 8 * i : 8 * i + 8] = (220, 40, 40)
        pictures.append(picture)
    encode_mp4(tmp_path / "a.mp4", pictures, fps=10, width=96, height=64)
    return tmp_path / "a.mp4"


def test_sound_frames_counts_and_refuses(video: Path, tmp_path: Path) -> None:
    assert damage.sound_frames(video) == 12
    (tmp_path / "b.mp4").write_bytes(b"nothing of the kind")
    assert damage.sound_frames(tmp_path / "b.mp4") is None


def test_moving_the_index_keeps_the_frames(video: Path) -> None:
    before = video.read_bytes()
    damage.move_index_first(video)
    after = video.read_bytes()
    assert before.find(b"moov") > before.find(b"mdat")
    assert after.find(b"moov") < after.find(b"mdat")
    assert damage.sound_frames(video) == 12
    assert list(video.parent.iterdir()) == [video]


def test_a_harmless_cut_is_made_deeper(video: Path) -> None:
    damage.move_index_first(video)
    whole = video.read_bytes()
    video.write_bytes(whole + bytes(len(whole)))  # padding: half of the file is no video at all
    kept = damage.cut(video, 0.9, frames=12)
    assert kept < 0.5
    found = damage.sound_frames(video)
    assert found is None or found < 12


def test_overwriting_keeps_the_size_and_breaks_the_middle(video: Path) -> None:
    before = video.read_bytes()
    count = damage.overwrite_middle(video, np.random.default_rng(1), frames=12)
    after = video.read_bytes()
    changed = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
    assert 0 < len(changed) <= count == max(changed) - min(changed) + 1
    assert before.find(b"mdat") < min(changed)
    assert max(changed) < before.find(b"moov")
    found = damage.sound_frames(video)
    assert found is None or found < 12


def test_what_is_no_video_has_a_closed_set_of_names(tmp_path: Path) -> None:
    picture = np.zeros((8, 8, 3), np.uint8)
    for what in damage.NOT_A_VIDEO:
        damage.write_not_a_video(tmp_path / f"{what}.mp4", what, picture, random.Random(1))
        assert damage.sound_frames(tmp_path / f"{what}.mp4") in (None, 1)
    with pytest.raises(ValueError, match="what='gif'"):
        damage.write_not_a_video(tmp_path / "x.mp4", "gif", picture, random.Random(1))


def test_turning_needs_a_track_header(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no boxes here")
    with pytest.raises(ValueError, match="track header"):
        damage.turn(tmp_path / "a.mp4", 90, stored_width=8, stored_height=8)

"""Rendered frames and mp4 files show what the scene describes."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from gve_ray.demo.render import RGB, encode_mp4, frames, shape_distance, write_mp4
from gve_ray.demo.scenes import BACKGROUNDS, GRID, Chapter, Scene, Thing

ROOT = Path(__file__).resolve().parents[2]
UNSTABLE_SEED = 27  # with x264's macroblock tree, the file of this scene differs each time


def scene_of(
    *things: Thing, background: str = "desert", camera: str = "still", size: tuple[int, int] = (112, 112)
) -> Scene:
    chapter = Chapter(background=background, camera=camera, things=things)
    return Scene(seed=1, chapters=(chapter,), width=size[0], height=size[1], fps=10.0, duration=1.0)


def thing_of(
    colour: str = "blue", *motions: str, column: int = 1, row: int = 1, size: str = "large"
) -> Thing:
    return Thing(
        colour=colour, shape="circle", size=size, column=column, row=row, motions=motions or ("rest",)
    )


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def spot(picture: np.ndarray, colour: str) -> tuple[float, float, int]:
    """Return the centre (x, y in frame widths and heights) and the number of pixels near that
    colour.
    """
    near = np.abs(picture.astype(int) - RGB[colour]).max(-1) < 60
    rows, columns = np.nonzero(near)
    height, width = near.shape
    return (columns.mean() + 0.5) / width, (rows.mean() + 0.5) / height, len(rows)


@pytest.mark.parametrize("colour", RGB)
def test_colours_survive_encoding(tmp_path: Path, colour: str) -> None:
    write_mp4(tmp_path / "a.mp4", scene_of(thing_of(colour), background="night sky"))
    middle = decode(tmp_path / "a.mp4")[5][52:60, 52:60].reshape(-1, 3).mean(0)
    assert np.abs(middle - RGB[colour]).max() < 12


def test_files_have_the_size_rate_and_length_of_the_scene(tmp_path: Path) -> None:
    scene = replace(scene_of(thing_of()), width=160, height=120, fps=12.0, duration=1.5)
    write_mp4(tmp_path / "a.mp4", scene)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("h264", 160, 120)
        assert stream.average_rate == 12
        assert len(list(container.decode(stream))) == 18


def test_the_bytes_of_a_scene_do_not_depend_on_uninitialised_memory(tmp_path: Path) -> None:
    # With the default settings of x264, the two processes write different bytes for this scene.
    program = (
        "import sys; from pathlib import Path; from gve_ray.demo.render import write_mp4; "
        "from gve_ray.demo.scenes import draw_scene; write_mp4(Path(sys.argv[1]), draw_scene(SEED, 'corpus'))"
    ).replace("SEED", str(UNSTABLE_SEED))
    for fill in ("85", "170"):  # glibc fills uninitialised memory with this byte
        environment = {**os.environ, "MALLOC_PERTURB_": fill, "PYTHONPATH": str(ROOT)}
        path = str(tmp_path / f"{fill}.mp4")
        subprocess.run([sys.executable, "-c", program, path], env=environment, check=True)
    assert (tmp_path / "85.mp4").read_bytes() == (tmp_path / "170.mp4").read_bytes()


def test_odd_sizes_are_kept(tmp_path: Path) -> None:
    picture = next(frames(scene_of(thing_of()), [0.0], 127, 97))
    encode_mp4(tmp_path / "a.mp4", [picture] * 3, fps=8, width=127, height=97)
    decoded = decode(tmp_path / "a.mp4")
    assert len(decoded) == 3
    assert decoded[0].shape == (97, 127, 3)
    assert np.abs(decoded[0].astype(int) - picture).mean() < 4


@pytest.mark.parametrize(
    "motion, end",
    [
        ("left", (0.5 - GRID, 0.5)),
        ("right", (0.5 + GRID, 0.5)),
        ("up", (0.5, 0.5 - GRID)),
        ("down", (0.5, 0.5 + GRID)),
    ],
)
def test_objects_end_where_their_motion_leads(motion: str, end: tuple[float, float]) -> None:
    first, last = frames(scene_of(thing_of("blue", motion, size="small")), [0.0, 1.0], 224, 160)
    assert spot(first, "blue")[:2] == pytest.approx((0.5, 0.5), abs=0.01)
    assert spot(last, "blue")[:2] == pytest.approx(end, abs=0.01)


@pytest.mark.parametrize("motion, scale", [("grow", 1.45), ("shrink", 0.62)])
def test_growing_and_shrinking_change_the_radius(motion: str, scale: float) -> None:
    first, last = frames(scene_of(thing_of("blue", motion)), [0.0, 1.0], 224, 224)
    assert spot(last, "blue")[2] / spot(first, "blue")[2] == pytest.approx(scale**2, rel=0.1)


def test_spinning_turns_a_shape_clockwise() -> None:
    thing = Thing(colour="blue", shape="triangle", size="large", column=1, row=1, motions=("spin",))
    masks = [
        np.abs(picture.astype(int) - RGB["blue"]).max(-1) < 60
        for picture in frames(scene_of(thing), [0.0, 90 / 130], 224, 224)  # a whole spin is 130 degrees
    ]
    clockwise, counterclockwise = np.rot90(masks[0], -1), np.rot90(masks[0])

    def overlap(other: np.ndarray) -> float:
        return float((masks[1] & other).sum() / (masks[1] | other).sum())

    assert overlap(clockwise) > 0.9
    assert overlap(counterclockwise) < 0.7


def test_a_pan_to_the_right_moves_the_background_to_the_left() -> None:
    thing = thing_of("red", size="small")
    first, last = frames(scene_of(thing, background="brick wall", camera="pan right"), [0.0, 1.0], 200, 200)
    shift = round(0.4 * 200)
    top = slice(0, 60)  # rows without the object
    assert np.array_equal(last[top, : 200 - shift], first[top, shift:])
    assert not np.array_equal(last[top], first[top])


def test_zooming_in_makes_everything_larger() -> None:
    first, last = frames(scene_of(thing_of(), camera="zoom in"), [0.0, 1.0], 224, 224)
    assert spot(last, "blue")[2] / spot(first, "blue")[2] == pytest.approx(1.35**2, rel=0.1)


def test_a_still_chapter_does_not_change() -> None:
    first, last = frames(scene_of(thing_of()), [0.0, 1.0], 112, 112)
    assert np.array_equal(first, last)


def test_backgrounds_look_different_from_one_another() -> None:
    means = [
        next(frames(scene_of(thing_of(), background=b), [0.0], 64, 64)).mean((0, 1)) for b in BACKGROUNDS
    ]
    gaps = [np.abs(a - b).max() for i, a in enumerate(means) for b in means[:i]]
    assert min(gaps) > 15


@pytest.mark.parametrize(
    "shape, inside, outside",
    [
        ("circle", (0.9, 0.0), (0.7, 0.7)),
        ("bar", (0.9, 0.3), (0.0, 0.6)),
        ("ring", (0.72, 0.0), (0.0, 0.0)),
        ("cross", (0.9, 0.0), (0.6, 0.6)),
        ("triangle", (0.0, -0.9), (0.6, -0.6)),
        ("star", (0.0, -1.0), (0.0, 0.9)),
    ],
)
def test_shapes_contain_the_right_points(
    shape: str, inside: tuple[float, float], outside: tuple[float, float]
) -> None:
    assert shape_distance(shape, *np.array(inside)) < 0
    assert shape_distance(shape, *np.array(outside)) > 0


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="hexagon"):
        shape_distance("hexagon", np.zeros(1), np.zeros(1))

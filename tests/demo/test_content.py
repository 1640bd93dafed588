"""Rendered examples for the content filters: reproducible, and defective as their kind says."""

from pathlib import Path

from gve_ray.demo.content import DEFECTS, LOOKALIKES, Example, examples, write_example
from gve_ray.media import read_frames


def test_there_are_examples_of_every_defect_and_of_what_resembles_it() -> None:
    every = examples(seed=1, of_each=2)
    assert len({example.name for example in every}) == len(every) == 2 * (len(DEFECTS) + len(LOOKALIKES))
    assert {defect for example in every for defect in example.defects} == {*DEFECTS}
    assert {len(example.defects) for example in every if example.kind in LOOKALIKES} == {0}


def test_an_example_is_as_its_kind_says_and_the_same_each_time(tmp_path: Path) -> None:
    example = Example(name="darkness-000", kind="darkness", seed=1)
    for name in ("one.mp4", "two.mp4"):
        write_example(tmp_path / name, example)
    assert (tmp_path / "one.mp4").read_bytes() == (tmp_path / "two.mp4").read_bytes()
    assert read_frames(str(tmp_path / "one.mp4"), k=2).pixels.max() < 60

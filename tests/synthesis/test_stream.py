"""The stages on parts of a manifest: which videos a part has, in which order parts go, and what overlaps.

The stages here are functions that wait for each other by events, so no test depends on time.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from gve_ray.stage import StageCounts, StageError
from gve_ray.synthesis.config import CaptionerConfig, SynthesisConfig
from gve_ray.synthesis.stages import SharedState, Stage, SynthesisRun
from gve_ray.synthesis.stream import Stream, split

SECONDS = 60.0  # until a test gives up


def config_of(folder: Path | str = "/tmp/none", **options: Any) -> SynthesisConfig:
    return SynthesisConfig(
        input="the manifest", output=str(folder), captioner=CaptionerConfig(model="none"), **options
    )


def manifest_of(n: int) -> pa.Table:
    return pa.table({"video_id": [f"v{i:03d}" for i in range(n)], "uri": ["u"] * n})


def ids_of(parts: Sequence[pa.Table]) -> list[list[str]]:
    return [part["video_id"].to_pylist() for part in parts]


# ---- Parts


def test_parts_have_every_video_once_and_nearly_the_same_size() -> None:
    parts = ids_of(split(manifest_of(100), config_of(part_videos=30)))
    assert [len(part) for part in parts] == [25, 25, 25, 25]
    assert sorted(video for part in parts for video in part) == [f"v{i:03d}" for i in range(100)]
    assert all(part == sorted(part) for part in parts)
    assert parts[0] != [f"v{i:03d}" for i in range(25)]  # a sample of the whole
    assert ids_of(split(manifest_of(100), config_of(part_videos=30, seed=1))) != parts


@pytest.mark.parametrize("options", [{"pipeline": "staged", "part_videos": 30}, {"part_videos": 100}])
def test_staged_and_small_manifests_are_one_part(options: Mapping[str, Any]) -> None:
    (part,) = split(manifest_of(100), config_of(**options))
    assert part.equals(manifest_of(100))


def test_a_larger_trial_contains_the_smaller_one() -> None:
    drawn = {n: ids_of(split(manifest_of(100), config_of(limit=n, seed=1))) for n in (5, 20, 1000)}
    assert [len(parts) for parts in drawn.values()] == [1, 1, 1]
    assert len(drawn[5][0]) == 5
    assert set(drawn[5][0]) < set(drawn[20][0])
    assert drawn[20][0] == sorted(drawn[20][0]) != [f"v{i:03d}" for i in range(20)]
    assert drawn[1000] == [[f"v{i:03d}" for i in range(100)]]
    assert ids_of(split(manifest_of(100), config_of(limit=5, seed=2))) != drawn[5]


def test_a_trial_has_the_parts_of_the_whole() -> None:
    whole = ids_of(split(manifest_of(100), config_of(part_videos=30)))
    first, second = ids_of(split(manifest_of(100), config_of(part_videos=30, limit=30)))
    assert first == whole[0]
    assert len(second) == 5
    assert set(second) < set(whole[1])


def test_the_size_of_parts_is_part_of_the_identity_only_if_there_are_several() -> None:
    staged = config_of(pipeline="staged")
    assert staged.identity(50_000) == config_of().identity(10_000) == config_of(part_videos=7).identity(7)
    assert config_of().identity(10_001) != staged.identity(10_001)
    assert config_of(part_videos=7).identity(8) != config_of(part_videos=6).identity(8)
    assert config_of(parts_ahead=7).identity(10_001) == config_of().identity(10_001)


# ---- The order of parts and stages


class Recorder:
    """Makes stages that record when they begin and end with a part, and that can wait for one another."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self._changed = threading.Condition()

    def stage(self, name: str, work: Callable[[int], None] = lambda part: None, **options: Any) -> Stage:
        def run(run: SynthesisRun, stage: Stage) -> StageCounts:
            self.say(f"{name} {run.part}")
            work(run.part)
            self.say(f"{name} {run.part} done")
            return StageCounts(name=name, n_in=10 + run.part, n_out=10, n_rejected=run.part, seconds=0.0)

        return Stage(name=name, unit="videos", reads=(), writes=(), run=run, **options)

    def say(self, event: str) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait_for(self, event: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: event in self.events, SECONDS), (event, self.events)


def stream_of(
    tmp_path: Path, stages: Sequence[Stage], *, parts: int = 4, at_once: bool = True, **calls: Any
) -> Stream:
    config = config_of(tmp_path, part_videos=1, parts_ahead=2)
    shared = SharedState(config, manifest_of(parts), at_once=at_once)
    return Stream(
        shared,
        stages,
        split(manifest_of(parts), config),
        record=calls.pop("record", lambda entries: None),
        **calls,
    )


def test_a_part_is_decoded_while_the_one_before_it_is_captioned(tmp_path: Path) -> None:
    on = Recorder()
    decode = on.stage("decode")
    # The captions of part 0 end only when part 1 has been decoded.
    caption = on.stage("caption", lambda part: on.wait_for("decode 1 done"))
    stream_of(tmp_path, [decode, caption]).run()
    assert on.events.index("caption 0") < on.events.index("caption 0 done")
    assert sorted(on.events) == sorted(
        f"{name} {part}{end}" for name in ("decode", "caption") for part in range(4) for end in ("", " done")
    )


def test_no_part_runs_further_ahead_than_the_config_allows(tmp_path: Path) -> None:
    on = Recorder()
    seen: list[set[str]] = []

    def hold_back(part: int) -> None:
        if part == 0:
            on.wait_for("decode 2 done")  # two parts ahead
            seen.append(set(on.events))

    stream_of(tmp_path, [on.stage("decode"), on.stage("caption", hold_back, in_order=True)]).run()
    assert "decode 3" not in seen[0]
    assert "decode 3 done" in on.events


def test_a_stage_in_order_takes_one_part_at_a_time(tmp_path: Path) -> None:
    on = Recorder()

    def hold_back(part: int) -> None:
        if part == 0:
            on.wait_for("decode 1 done")

    finished: list[int] = []
    stages = [on.stage("decode", hold_back), on.stage("duplicates", in_order=True)]
    stream_of(tmp_path, stages, finished=lambda run, entries: finished.append(run.part)).run()
    duplicates = [event for event in on.events if event.startswith("duplicates")]
    assert duplicates == [f"duplicates {part}{end}" for part in range(4) for end in ("", " done")]
    assert finished == [0, 1, 2, 3]


def test_counts_add_up_over_parts(tmp_path: Path) -> None:
    on, recorded = Recorder(), list[Sequence[Mapping[str, Any]]]()
    stages = [on.stage("decode"), on.stage("assemble", in_order=True, is_cumulative=True)]
    entries = stream_of(tmp_path, stages, record=recorded.append).run()
    counts = [(entry["name"], entry["in"], entry["out"], entry["rejected"]) for entry in entries]
    assert counts == [("decode", 10 + 11 + 12 + 13, 40, 0 + 1 + 2 + 3), ("assemble", 13, 10, 3)]
    assert all(entry["in"] == entry["out"] + entry["rejected"] for some in recorded for entry in some)
    assert recorded[-1][0]["in"] == 46


def test_without_room_for_all_stages_parts_run_one_after_the_other(tmp_path: Path) -> None:
    on = Recorder()
    stages = [on.stage("decode"), on.stage("caption", in_order=True)]
    at_once, in_turn = (stream_of(tmp_path, stages, at_once=at_once).run() for at_once in (True, False))
    expected = [
        f"{name} {part}{end}" for part in range(4) for name in ("decode", "caption") for end in ("", " done")
    ]
    assert on.events[-16:] == expected
    for a, b in zip(at_once, in_turn, strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}


def test_a_stage_that_fails_stops_all_parts(tmp_path: Path) -> None:
    on = Recorder()

    def fail(part: int) -> None:
        if part == 1:
            on.wait_for("decode 2 done")
            raise StageError("stage caption: its worker cannot start")

    stages = [on.stage("decode"), on.stage("caption", fail), on.stage("assemble", in_order=True)]
    with pytest.raises(StageError, match="its worker cannot start"):
        stream_of(tmp_path, stages, parts=6).run()
    assert "assemble 1" not in on.events
    assert "decode 5" not in on.events

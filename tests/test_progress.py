"""Tests what `Progress` reports, and when it logs it."""

import logging
import math

import pytest

from gve_ray import progress
from gve_ray.progress import Progress, ProgressState, duration, shown_by


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> list[float]:
    """A list whose only element is the current time in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "_last_line", -math.inf)
    caplog.set_level(logging.INFO, "gve_ray")
    return now


def test_a_line_is_logged_every_ten_seconds_and_at_the_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    duplicates = Progress("duplicates", 40, unit="videos")
    for seconds, done in ((1, 5), (10, 10), (11, 12), (19.9, 30), (20, 40)):
        clock[0] = 100 + seconds
        duplicates.reach(done)
    duplicates.close()  # a second end is not logged
    assert caplog.messages == [
        "duplicates: 10/40 videos, 1.0 videos/s, 30 s left",
        "duplicates: 40/40 videos in 20 s",
    ]


def test_only_news_is_logged_and_one_line_in_ten_seconds_for_all_steps(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    Progress("embedded", 0).reach(3)  # no total
    captions, frames = Progress("captions", 8, done=2), Progress("frames", 8)
    for seconds, act in (
        (10, lambda: captions.wait_for("loading the model")),
        (20, lambda: captions.wait_for("loading the model")),
        (30, lambda: captions.reach(2)),  # nothing is finished yet
        (40, lambda: captions.reach(4, "1 rejected")),
        (45, lambda: frames.reach(4)),
        (50, lambda: captions.reach(4, "1 rejected")),
        (51, lambda: frames.reach(4)),
    ):
        clock[0] = 100 + seconds
        act()
    assert caplog.messages == [
        "captions: loading the model",
        # The clock of the rate starts when the model is loaded: 2 rows in 10 s, and 4 are left.
        "captions: 4/8 rows, 0.2 rows/s, 20 s left, 1 rejected",
        "frames: 4/8 rows, 4.7 rows/min, 51 s left",
    ]


def test_a_step_that_ends_early_logs_what_it_has_done(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    Progress("nothing done", 8, done=2).close()
    step = Progress("captions", 8)
    step.reach(4)
    clock[0] += 2
    step.close()
    assert caplog.messages == ["captions: 4/8 rows, 2.0 rows/s, 2 s left"]


def test_items_that_are_finished_when_a_wait_ends_do_not_count_for_the_rate(clock: list[float]) -> None:
    step = Progress("render", 40, unit="files")
    step.wait_for("starting 2 processes")
    clock[0] += 5
    step.reach(4)
    clock[0] += 0.001
    assert str(step.state) == "render: 4/40 files"
    clock[0] += 1.999
    step.reach(6)
    assert str(step.state) == "render: 6/40 files, 1.0 files/s, 34 s left"


def test_nothing_is_left_when_all_items_are_finished_at_the_first_report(clock: list[float]) -> None:
    squares = Progress("squares", 40)
    squares.wait_for("starting")
    squares.reach(40)
    assert (squares.state.rate, squares.state.seconds_left) == (0, 0)


def test_a_display_gets_every_state_until_the_step_ends(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    events: list[ProgressState | str] = []

    class Recorder:
        def show(self, state: ProgressState) -> None:
            events.append(state)

        def hide(self, label: str) -> None:
            events.append(label)

    with shown_by(Recorder()):
        step = Progress("captions", 2)
        step.wait_for("loading")
        clock[0] += 10
        step.reach(1)
        step.reach(2)
    Progress("not shown", 2).reach(1)
    states = [event for event in events if isinstance(event, ProgressState)]
    assert [(state.done, state.status) for state in states] == [(0, "loading"), (1, ""), (2, "")]
    assert events[-1] == "captions"
    # The console leaves out the line that the display has shown.
    assert [getattr(record, "is_displayed", False) for record in caplog.records] == [True, False]


@pytest.mark.parametrize(
    "seconds,text", [(0.4, "0 s"), (99.4, "99 s"), (125, "2:05"), (3599.6, "1:00:00"), (45296, "12:34:56")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text

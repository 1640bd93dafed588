"""Tests when `Progress` logs and what it logs."""

import logging

import pytest

from gve_ray import progress
from gve_ray.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A list whose only element is the current time in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_line_is_logged_every_five_seconds_and_at_the_end(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gve_ray")
    duplicates = Progress("duplicates", 40, unit="videos")
    for seconds, done in ((1, 5), (5, 10), (6, 12), (9, 30), (9.5, 40)):
        clock[0] = 100 + seconds
        duplicates.reach(done)
    assert caplog.messages == [
        "duplicates: 10/40 videos, 2.0 videos/s, 15 s left",
        "duplicates: 40/40 videos, 4.2 videos/s, 0 s left",
    ]


def test_nothing_is_logged_without_a_total_or_before_the_first_item(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gve_ray")
    clock[0] += 60
    Progress("embedded", 0).reach(3)
    waiting = Progress("embedded", 3)
    clock[0] += 60
    waiting.reach(0)
    assert not caplog.messages

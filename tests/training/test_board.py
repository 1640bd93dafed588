"""Tests that the driver follows the steps of rank 0."""

import logging
from types import SimpleNamespace

import pytest

from gve_ray.progress import Progress, ProgressState
from gve_ray.training.board import Board, _Notes


@pytest.fixture
def board(monkeypatch: pytest.MonkeyPatch) -> Board:
    """Return a board whose actor lives in this process."""
    import ray

    notes = _Notes()
    monkeypatch.setattr(ray, "get", lambda result, timeout=None: result)
    names = ("show", "hide", "read", "say")
    return Board(SimpleNamespace(**{name: SimpleNamespace(remote=getattr(notes, name)) for name in names}))


def state(label: str, done: int) -> ProgressState:
    return ProgressState(label=label, total=4, unit="items", done=done)


def test_a_step_that_ended_twice_between_two_looks_is_followed_twice(
    board: Board, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr("gve_ray.progress.WORTH_A_LINE_SECONDS", 0.0)
    for _ in range(2):
        board.show(state("embedded", 4))
        board.hide("embedded")
    board.show(state("training", 1))
    steps: dict[str, Progress] = {}
    board._mirror(steps)
    assert caplog.messages == ["embedded: 4/4 items in 0 s"] * 2
    assert list(steps) == ["training"]
    board.show(state("training", 3))
    board._mirror(steps)
    assert steps["training"].state.done == 3


def test_messages_of_a_rank_are_logged_once_by_the_driver(
    board: Board, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    board.say("epoch 1")
    for _ in range(2):
        board._mirror({})
    assert caplog.messages == ["epoch 1"]

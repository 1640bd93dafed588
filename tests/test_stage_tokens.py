"""What workers report of their engines' tokens, and what the driver makes of it."""

import pytest

from gve_ray.stage import report_tokens
from gve_ray.stage.in_flight import InFlightRows
from gve_ray.stage.tokens import TokenCounts, TokenMeter, tokens_text


def test_rates_are_those_of_all_workers_and_the_share_is_their_mean():
    one = TokenCounts(prompt=1000, output=200, busy_seconds=9.0, seconds=10.0, workers=1)
    other = TokenCounts(prompt=500, output=100, busy_seconds=5.0, seconds=10.0, workers=1)
    both = one + other
    assert both.per_second == (150.0, 30.0)
    assert both.busy == pytest.approx(0.7)
    assert tokens_text(both.to_dict()) == "150 prompt and 30 output tokens/s, 70% busy"
    assert TokenCounts().per_second == (0.0, 0.0)


def test_a_meter_sends_totals_and_what_is_new(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("gve_ray.stage.tokens.time.monotonic", lambda: now[0])
    sent: list[tuple[TokenCounts, TokenCounts]] = []
    meter = TokenMeter(lambda total, new: sent.append((total, new)))
    meter.flush()
    assert sent == []  # nothing has been reported
    meter.add(10, 1, 2.0)  # the work began at 98
    now[0] = 100.1
    meter.add(5, 1, 0.1)  # too soon to send
    assert len(sent) == 1
    now[0] = 108.0
    meter.flush()
    total, new = sent[-1]
    assert (total.prompt, total.output, total.seconds, total.workers) == (15, 2, 10.0, 1)
    assert total.busy == pytest.approx(0.21)
    assert (new.prompt, new.output, new.workers) == (5, 1, 0)


def test_the_tracker_keeps_the_last_totals_of_each_process():
    rows = InFlightRows()
    assert rows.activity().tokens == TokenCounts()
    rows.tokens("a/1", TokenCounts(prompt=10, workers=1))
    rows.tokens("a/1", TokenCounts(prompt=30, workers=1))
    rows.tokens("a/2", TokenCounts(prompt=5, workers=1))  # the actor was restarted
    assert (rows.activity().tokens.prompt, rows.activity().tokens.workers) == (35, 2)


def test_outside_a_stage_nothing_is_counted():
    report_tokens(prompt=1, output=1, busy_seconds=1.0)

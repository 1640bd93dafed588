"""Collects the largest differences to the published code and prints them after the tests as a table."""

from collections.abc import Callable

import pytest

DIFFERENCES = pytest.StashKey[dict[tuple[str, str], float]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[DIFFERENCES] = {}


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Callable[[str, str, float], float]:
    """A function (family, quantity, difference) that keeps the largest difference, and returns it."""

    def keep(family: str, quantity: str, difference: float) -> float:
        known = request.config.stash[DIFFERENCES]
        known[family, quantity] = max(difference, known.get((family, quantity), 0.0))
        return difference

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    differences = config.stash[DIFFERENCES]
    if not differences:
        return
    terminalreporter.section("largest differences to the published code")
    for (family, quantity), value in sorted(differences.items()):
        terminalreporter.write_line(f"{family:<36}{quantity:<16}{value:.2e}")

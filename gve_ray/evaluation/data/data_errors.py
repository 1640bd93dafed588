"""What is wrong with a data set, one line each, and which queries go with it."""

import reprlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing wrong with a data set, and one line by `str()`.

    where: a file and its line, or the ids that use a media file. what: the fault in words. queries: ids of
    queries that are left out because of it though their own lines are sound, for it leaves them nothing to
    be found.
    """

    dataset: str
    where: str
    what: str
    queries: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.dataset}: {self.where}: {self.what}"
        if self.queries:
            text += f"; so {_counted(self.queries)} left out"
        # Bad data has line breaks and half surrogates in names; a log is UTF-8 and a fault is one line.
        return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()


class Faults:
    """The faults of one data set while it is read. A fault's number stands for it until all are known."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self._found: list[tuple[str, str, list[str]]] = []

    def add(self, where: str, what: str) -> int:
        """Tell one fault; returns its number."""
        self._found.append((where, what, []))
        return len(self._found) - 1

    def take(self, number: int, query_id: str) -> None:
        """Fault `number` is why this query is left out."""
        self._found[number][2].append(query_id)

    def all(self) -> list[Fault]:
        """In the order in which they were told."""
        return [
            Fault(dataset=self.dataset, where=where, what=what, queries=tuple(queries))
            for where, what, queries in self._found
        ]


def shown(value: Any) -> str:
    """A value from a file, quoted and short enough for one line."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 80
    return short.repr(value)


def _counted(ids: tuple[str, ...]) -> str:
    first = ", ".join(shown(one) for one in ids[:3])
    if len(ids) == 1:
        return f"query {first} is"
    return f"{len(ids)} queries ({first}{', ...' if len(ids) > 3 else ''}) are"

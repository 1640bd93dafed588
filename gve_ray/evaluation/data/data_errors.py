"""Data errors: what is wrong with a data set, and which queries are left out because of it."""

from dataclasses import dataclass

from gve_ray.errors import shown


@dataclass(frozen=True, kw_only=True)
class DataError:
    """One error in a data set; `str()` gives it in one line.

    where: a file and its line, or the ids that use a media file. what: a description. queries: ids
    of the queries that are left out because of this error although their own lines are valid.
    """

    dataset: str
    where: str
    what: str
    queries: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.dataset}: {self.where}: {self.what}"
        if self.queries:
            text += f"; so {_counted(self.queries)} left out"
        # Names in bad data may hold line breaks and lone surrogates; a log is UTF-8 with one line per error.
        return " ".join(text.split()).encode("utf-8", "backslashreplace").decode()


class DataErrorLog:
    """Collects the errors of one data set while it is read; `add` numbers them."""

    def __init__(self, dataset: str) -> None:
        self.dataset = dataset
        self._entries: list[tuple[str, str, list[str]]] = []

    def add(self, where: str, what: str) -> int:
        """Add an error and return its number."""
        self._entries.append((where, what, []))
        return len(self._entries) - 1

    def add_query(self, number: int, query_id: str) -> None:
        """Record that this query is left out because of error `number`."""
        self._entries[number][2].append(query_id)

    def all(self) -> list[DataError]:
        """All errors, in the order in which they were added."""
        return [
            DataError(dataset=self.dataset, where=where, what=what, queries=tuple(queries))
            for where, what, queries in self._entries
        ]


def _counted(ids: tuple[str, ...]) -> str:
    first = ", ".join(shown(query_id) for query_id in ids[:3])
    if len(ids) == 1:
        return f"query {first} is"
    return f"{len(ids)} queries ({first}{', ...' if len(ids) > 3 else ''}) are"

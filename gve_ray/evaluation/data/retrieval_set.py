"""Which corpus ids answer which query, gathered line by line, and the data set that comes of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gve_ray.evaluation.data.data_errors import Fault, Faults, shown
from gve_ray.evaluation.data.jsonl_items import Rows
from gve_ray.schema import Item


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """Queries, a corpus, and which answers which.

    query_ids, queries and corpus_ids, corpus: side by side, in file order. positives: of every query, one
    or more. candidates: the corpus ids that a query ranks, in corpus order (so that equal scores do not
    favour the positive), its positives among them; None where every query ranks the whole corpus.
    skipped: what was wrong, and left out.
    """

    name: str
    query_ids: list[str]
    queries: list[Item]
    corpus_ids: list[str]
    corpus: list[Item]
    positives: dict[str, frozenset[str]]
    candidates: dict[str, tuple[str, ...]] | None
    skipped: list[Fault]


class Verdicts:
    """Judgements about queries that are known, on corpus ids that are known; the rest are faults."""

    def __init__(self, queries: Rows, corpus: Rows, faults: Faults) -> None:
        self._queries, self._corpus, self._faults = queries, corpus, faults
        self._positives: dict[str, set[str]] = {}
        self._listed: dict[str, set[str]] = {}
        self._cause: dict[str, int] = {}  # by query id: the first fault that cost it an answer or candidate

    def knows(self, query_id: str | None, where: str) -> bool:
        """Whether the queries have this id; tells the fault if not."""
        if query_id in self._queries.lines:
            return True
        self._faults.add(where, f"unknown query id {shown(query_id)}: {self._queries.file} does not have it")
        return False

    def relevant(self, query_id: str, corpus_ids: Iterable[str], where: str) -> None:
        """These answer the query."""
        self._positives.setdefault(query_id, set()).update(self._usable(query_id, corpus_ids, where))

    def candidates(self, query_id: str, corpus_ids: Sequence[str], where: str) -> None:
        """The query ranks these, and what answers it, and nothing else. No ids are no list."""
        if not corpus_ids:
            return
        self._listed.setdefault(query_id, set()).update(self._usable(query_id, corpus_ids, where))

    def blame(self, query_id: str, fault: int) -> None:
        """The query goes with this fault, unless another line of judgements saves it."""
        self._cause.setdefault(query_id, fault)

    def _usable(self, query_id: str, corpus_ids: Iterable[str], where: str) -> set[str]:
        usable = set()
        for one in corpus_ids:
            if one in self._corpus.items:
                usable.add(one)
            elif one in self._corpus.lost:
                self.blame(query_id, self._corpus.lost[one])
            else:
                what = f"unknown corpus id {shown(one)} for query {shown(query_id)}: "
                self.blame(query_id, self._faults.add(where, f"{what}{self._corpus.file} does not have it"))
        return usable

    def result(self, *, only_judged: bool = False) -> RetrievalSet:
        """The data set. A query goes where nothing answers it, or where its list holds no wrong answer.

        only_judged: queries without a line of judgements are of another split, and no fault.
        """
        kept, positives = [], {}
        candidates: dict[str, tuple[str, ...]] = {}
        position = {key: i for i, key in enumerate(self._corpus.items)}
        for key in self._queries.items:
            judged = key in self._positives or key in self._cause
            if only_judged and not judged:
                continue
            answers = self._positives.get(key, set())
            listed = self._listed.get(key, set())
            if not answers:
                self._leave_out(key, "nothing answers it" if judged else "no line says what answers it")
            elif self._listed and not listed:
                self._leave_out(key, "no candidates, while other queries have a list of them")
            elif self._listed and not listed - answers:
                self._leave_out(key, "its candidates hold no wrong answer")
            else:
                kept.append(key)
                positives[key] = frozenset(answers)
                candidates[key] = tuple(sorted(listed | answers, key=position.__getitem__))
        return RetrievalSet(
            name=self._faults.dataset,
            query_ids=kept,
            queries=[self._queries.items[key] for key in kept],
            corpus_ids=list(self._corpus.items),
            corpus=list(self._corpus.items.values()),
            positives=positives,
            candidates=candidates if self._listed else None,
            skipped=self._faults.all(),
        )

    def _leave_out(self, query_id: str, why: str) -> None:
        if query_id in self._cause:
            self._faults.take(self._cause[query_id], query_id)
        else:
            self._faults.add(self._queries.place(query_id), f"query {shown(query_id)}: {why}")

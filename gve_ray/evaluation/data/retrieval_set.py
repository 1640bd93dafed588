"""A retrieval data set, and the builder that assembles it from relevance judgements line by line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gve_ray.errors import shown
from gve_ray.evaluation.data.data_errors import DataError, DataErrorLog
from gve_ray.evaluation.data.jsonl_items import JsonlItems
from gve_ray.schema import Item


@dataclass(frozen=True, kw_only=True)
class RetrievalSet:
    """Queries, a corpus, and the relevant corpus items of each query.

    query_ids and queries, corpus_ids and corpus: parallel lists in file order. positives: one or
    more relevant corpus ids for each query. candidates: the corpus ids that each query ranks,
    positives included, in corpus order (so that ties do not favour the positive); None if every
    query ranks the whole corpus. skipped: the errors found in the data, whose lines were left out.
    has_labels: the corpus consists of labels or answers, and each query has exactly one.
    """

    name: str
    query_ids: list[str]
    queries: list[Item]
    corpus_ids: list[str]
    corpus: list[Item]
    positives: dict[str, frozenset[str]]
    candidates: dict[str, tuple[str, ...]] | None
    skipped: list[DataError]
    has_labels: bool = False


class RetrievalSetBuilder:
    """Collects judgements; those that refer to unknown queries or corpus items become data errors."""

    def __init__(self, queries: JsonlItems, corpus: JsonlItems, errors: DataErrorLog) -> None:
        self._queries, self._corpus, self._errors = queries, corpus, errors
        self._positives: dict[str, set[str]] = {}
        self._listed: dict[str, set[str]] = {}
        self._cause: dict[str, int] = {}  # by query id: the first error that removed a positive or candidate

    def check_query(self, query_id: str | None, where: str) -> bool:
        """Whether the queries contain this id; records an error if they do not."""
        if query_id in self._queries.lines:
            return True
        self._errors.add(where, f"unknown query id {shown(query_id)}: {self._queries.file} does not have it")
        return False

    def add_positives(self, query_id: str, corpus_ids: Iterable[str], where: str) -> None:
        """Add corpus ids that are relevant to a query."""
        self._positives.setdefault(query_id, set()).update(self._usable(query_id, corpus_ids, where))

    def add_candidates(self, query_id: str, corpus_ids: Sequence[str], where: str) -> None:
        """Add corpus ids to the query's candidate list; an empty list is ignored."""
        if not corpus_ids:
            return
        self._listed.setdefault(query_id, set()).update(self._usable(query_id, corpus_ids, where))

    def blame(self, query_id: str, error: int) -> None:
        """Record why this query is left out unless other judgements make it valid."""
        self._cause.setdefault(query_id, error)

    def _usable(self, query_id: str, corpus_ids: Iterable[str], where: str) -> set[str]:
        usable = set()
        for corpus_id in corpus_ids:
            if corpus_id in self._corpus.items:
                usable.add(corpus_id)
            elif corpus_id in self._corpus.lost:
                self.blame(query_id, self._corpus.lost[corpus_id])
            else:
                what = f"unknown corpus id {shown(corpus_id)} for query {shown(query_id)}: "
                self.blame(query_id, self._errors.add(where, f"{what}{self._corpus.file} does not have it"))
        return usable

    def build(self, *, only_judged: bool = False) -> RetrievalSet:
        """The data set, without queries that lack a positive or, among candidates, a negative.

        only_judged: queries without any judgement belong to another split and are not an error.
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
                self._leave_out(key, "it has no valid positive" if judged else "no line gives its positives")
            elif self._listed and not listed:
                self._leave_out(key, "it has no candidates, although other queries have")
            elif self._listed and not listed - answers:
                self._leave_out(key, "its candidates contain no negative")
            else:
                kept.append(key)
                positives[key] = frozenset(answers)
                candidates[key] = tuple(sorted(listed | answers, key=position.__getitem__))
        return RetrievalSet(
            name=self._errors.dataset,
            query_ids=kept,
            queries=[self._queries.items[key] for key in kept],
            corpus_ids=list(self._corpus.items),
            corpus=list(self._corpus.items.values()),
            positives=positives,
            candidates=candidates if self._listed else None,
            skipped=self._errors.all(),
        )

    def _leave_out(self, query_id: str, why: str) -> None:
        if query_id in self._cause:
            self._errors.add_query(self._cause[query_id], query_id)
        else:
            self._errors.add(self._queries.place(query_id), f"query {shown(query_id)}: {why}")

"""Rank the hits of a search by their pictures and by the words of the query together.

    ranking = Ranking.of(library.words, "the treasure map", "both")
    search_moments(library.index, vector, 10, ranking=ranking)

Both rankings are joined by reciprocal rank fusion (Cormack, Clarke and Buettcher, 2009): a hit at rank r
counts 1 / (60 + r), so no scores of different kinds are compared. Windows of a film that overlap share a rank,
and so do those of its copies, because they would otherwise push other films down. A text with less than three
quarters of the words of the query counts only this share, and none below a half: a picture is not outranked by
a film that happens to mention a word of its description. Both counts are added only if the text has all the
words and the picture is among the first; otherwise the larger one counts. A picture that matches with
confidence counts twice, so that films whose dialogue only mentions the subject do not outrank it.

A text about a whole video (caption, file name, transcript) finds one moment of it, the one whose picture
matches best, so that a long film does not fill the result.
"""

from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from gve_ray.search.copies import content_of, contents_of
from gve_ray.search.index import Filter, Hit, Quote, SearchError, UnknownIdError, Value, VectorIndex, span_of
from gve_ray.search.terms import query_terms, snippet
from gve_ray.search.words import WordIndex, WordMatch

By = Literal["both", "picture", "words"]

_RANKS = 60  # the constant of reciprocal rank fusion
_FEWEST = 100  # texts that are ranked at least
_FULL_SHARE = 0.75  # of the words of a query; texts with as many count in full
_LEAST_SHARE = 0.5  # texts with less do not count
_CONFIDENT = 0.9  # a picture that matches with so much confidence counts twice


class Ranking:
    """Ranks hits by the words of one query, too. Create one with `of`."""

    def __init__(self, words: WordIndex, text: str, *, with_pictures: bool) -> None:
        self._words, self._text, self._with_pictures = words, text, with_pictures
        self._terms = set(query_terms(text))
        self._matches: dict[str, WordMatch] = {}  # by segment, best first

    @classmethod
    def of(cls, words: WordIndex | None, text: str | None, by: By) -> "Ranking | None":
        """Return the ranking for the text of a query; None if only pictures are to be searched.

        words: of the index, None if it has none. text: None if the query has none. by: "both" is the
        same as "picture" if there are no words. Raises SearchError if only words are to be searched and
        there are none.
        """
        if by == "words" and not text:
            raise SearchError("by='words': the query has no text; give one, or search by picture")
        if by == "words" and words is None:
            raise SearchError("by='words': this index has no words; run gve index with words")
        if by == "picture" or not text or words is None:
            return None
        return cls(words, text, with_pictures=by == "both")

    def rank(
        self,
        index: VectorIndex,
        vector: np.ndarray,
        filter: Filter | None,
        pictures: Sequence[Hit],
        depth: int,
        top_k: int,
        judge: Callable[[float], float] | None,
    ) -> tuple[list[Hit], bool]:
        """Return hits, best first, and whether a larger depth may give more.

        pictures: the best hits by picture, of the query `vector`, float32 [1, d]. depth: number of texts
        to rank. The first `top_k` moments have matched by picture. judge: returns the confidence of a
        score, see `Background.judge`; None without a background. Raises SearchError.
        """
        depth = max(depth, _FEWEST)
        texts = self._words.search(self._text, depth, filter=filter)
        self._matches = _by_segment(index, vector, filter, pictures, texts, 2 * top_k)
        hits = {hit.id: hit for hit in pictures}
        hits |= _scored(index, vector, [segment for segment in self._matches if segment not in hits])
        matched: dict[str, tuple[Literal["picture", "words"], ...]] = {}
        values: dict[str, float] = {}
        # A segment without a hit is not in the index any more.
        contents = contents_of(index, list(hits.values()))
        by_words = _ranks([hits[segment] for segment in self._matches if segment in hits], contents)
        for segment, rank in by_words.items():
            share = self._matches[segment].share
            weight = 1.0 if share >= _FULL_SHARE else share
            values[segment], matched[segment] = weight / (_RANKS + rank), ("words",)
        by_picture = _ranks(pictures, contents)
        for hit in pictures if self._with_pictures else ():
            rank = by_picture[hit.id]
            is_confident = judge is not None and judge(hit.score) >= _CONFIDENT
            value = (2 if is_confident else 1) / (_RANKS + rank)
            if hit.id not in values:
                values[hit.id], matched[hit.id] = value, ("picture",)
                continue
            # Part of the words of a description is often in a text about something similar, so only a text with
            # all the words adds to a picture.
            adds = rank <= top_k and self._matches[hit.id].share == 1
            values[hit.id] = values[hit.id] + value if adds else max(values[hit.id], value)
            if rank <= top_k:
                matched[hit.id] = ("picture", "words")
        ranked = [replace(hits[segment], matched=matched[segment]) for segment in values]
        ranked.sort(key=lambda hit: (-values[hit.id], -hit.score, hit.id))
        return ranked, self._with_pictures or len(texts) == depth

    def quote(self, segment: str) -> Quote | None:
        """Return the words of a ranked segment that match, or None."""
        match = self._matches.get(segment)
        if match is None:
            return None
        part = snippet(match.text, self._terms)
        return Quote(source=match.source, text=part.text, marks=part.marks)


def _ranks(hits: Sequence[Hit], contents: Mapping[Value, Value]) -> dict[str, int]:
    """Return the rank of each hit, from 1, by its id. hits: best first. contents: see `contents_of`.

    A hit that overlaps a better one of the same content has the rank of that one.
    """
    ranks: dict[str, int] = {}
    ranked: defaultdict[Value, list[tuple[float, float, int]]] = defaultdict(list)  # start, end, rank; apart
    count = 0
    for hit in hits:
        start, end = span_of(hit)
        spans = ranked[content_of(hit, contents)]
        near = spans[max(0, bisect_left(spans, (start,)) - 1) : bisect_left(spans, (end,))]
        overlapped = [rank for _, other_end, rank in near if start < other_end]
        if not overlapped:
            count += 1
            insort(spans, (start, end, count))
        ranks[hit.id] = min(overlapped, default=count)
    return ranks


def _by_segment(
    index: VectorIndex,
    vector: np.ndarray,
    filter: Filter | None,
    pictures: Sequence[Hit],
    texts: Sequence[WordMatch],
    most_videos: int,
) -> dict[str, WordMatch]:
    """Return the best text about each segment, by its id, best first.

    A text about a whole video counts for its best moment by picture. Of the videos without a moment in
    `pictures`, only the first `most_videos` count, because each needs a search.
    """
    moments: dict[str, str | None] = {}
    for hit in pictures:
        moments.setdefault(str(hit.metadata["video_id"]), hit.id)
    searches = 0
    matches: dict[str, WordMatch] = {}
    for match in texts:
        if match.share < _LEAST_SHARE:
            continue
        segment = match.segment
        if segment is None and match.video_id not in moments and searches < most_videos:
            (best,) = index.search(vector, 1, filter={**(filter or {}), "video_id": match.video_id})
            moments[match.video_id] = best[0].id if best else None
            searches += 1
        if segment := segment or moments.get(match.video_id):
            matches.setdefault(segment, match)
    return matches


def _scored(index: VectorIndex, vector: np.ndarray, segments: Sequence[str]) -> dict[str, Hit]:
    """Return segments as hits, by id.

    One that is not in the index is left out: an index job may have changed the index, but not published
    its words yet.
    """
    try:
        vectors, metadata = index.get(segments)
    except UnknownIdError:
        known = index.ids()
        segments = [segment for segment in segments if segment in known]
        vectors, metadata = index.get(segments)
    scores = (vectors.astype(np.float64) @ vector[0].astype(np.float64)).tolist()
    return {
        segment: Hit(id=segment, score=score, metadata=row)
        for segment, score, row in zip(segments, scores, metadata, strict=True)
    }

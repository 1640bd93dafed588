"""Search for moments of videos, each of which is found once.

Windows of a film overlap, so that a scene is found wherever it begins; without this, the first hits
would all show the same scene. Of windows that overlap, the best counts, together with the chain of
overlapping windows around it that match about as well. Files with the same content count as one:
those with the same bytes, and copies in another encoding, which have the same duration and nearly
the same vectors.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gve_ray.search.confidence import Background
from gve_ray.search.copies import content_of, contents_of
from gve_ray.search.fusion import Ranking
from gve_ray.search.index import Filter, Hit, Span, Value, VectorIndex, span_of

_DEEPEST = 16_384  # rows; no more are searched for moments apart from each other. Milvus has this limit.
_FURTHER = 9  # further moments of a film
_ABOUT = 0.5  # of the standard deviation of a query's scores: by less, two scores are about equal


@dataclass(frozen=True, kw_only=True)
class Moment(Hit):
    """A hit with what is known about it.

    extent: start and end, in seconds, of the overlapping windows around it that match about as well.
    confidence: see `Background.judge`; None without a background, for a query of several vectors, and if
    words match, because it is about pictures only. further: other moments of the same film, best first,
    if the hits are grouped by film.
    """

    extent: Span
    confidence: float | None = None
    further: tuple["Moment", ...] = ()


def search_moments(
    index: VectorIndex,
    vector: np.ndarray,
    top_k: int,
    *,
    filter: Filter | None = None,
    overlapping: bool = False,
    excluded: Sequence[Hit] = (),
    by_video: bool = False,
    background: Background | None = None,
    is_composed: bool = False,
    ranking: Ranking | None = None,
) -> list[Moment]:
    """Return the `top_k` segments that match a query best, best first, apart from each other in time.

    index: of segments (`gve_ray.search.library.FIELDS`). vector: float32 [1, d]. overlapping: also
    return segments that overlap a better one, and copies. excluded: segments that are not returned,
    and that the hits must not overlap either. by_video: return each film once, with up to 9 further
    moments. background: what the scores of a query are compared with. is_composed: whether the query is
    a sum of several vectors; its hits have no confidence, because the background was learned from single
    ones. ranking: ranks by the words of the query, too. There are fewer hits if the index has no more, or
    if the best 16,384 rows have no more. Raises SearchError.
    """
    about = 0.0 if background is None else _ABOUT * background.spread(vector[0])
    judge = None
    if background is not None and not is_composed:
        judge = background.judge(vector[0], index.count(filter=filter))
    depth = len(excluded) + (top_k if overlapping and not by_video else 4 * top_k)
    while True:
        depth = min(depth, max(_DEEPEST, top_k))
        (hits,) = index.search(vector, depth, filter=filter)
        is_last = len(hits) < depth or depth >= _DEEPEST
        if ranking is not None:
            hits, has_more = ranking.rank(index, vector, filter, hits, depth, top_k, judge)
            is_last = is_last or not has_more
        contents = contents_of(index, [] if overlapping else [*excluded, *hits])
        if overlapping:
            excluded_ids = {hit.id for hit in excluded}
            moments = [_moment(hit, span_of(hit)) for hit in hits if hit.id not in excluded_ids]
        else:
            moments = distinct(hits, contents, excluded=excluded, about=about)
        best = (_by_film(moments, contents) if by_video else moments)[:top_k]
        if len(best) == top_k or is_last:
            best = best if ranking is None else [_quoted(moment, ranking) for moment in best]
            return best if judge is None else [_judged(moment, judge) for moment in best]
        depth *= 4


def distinct(
    hits: Sequence[Hit], contents: Mapping[Value, Value], *, excluded: Sequence[Hit] = (), about: float = 0.0
) -> list[Moment]:
    """Return the hits without those that overlap the extent of an earlier one of a file with the
    same content.

    contents: fingerprint -> content, if it has another name. about: by how much less the windows of
    an extent may score.
    """
    taken: defaultdict[Value, list[Span]] = defaultdict(list)
    of_content: defaultdict[Value, list[Hit]] = defaultdict(list)
    for hit in excluded:
        taken[content_of(hit, contents)].append(span_of(hit))
    for hit in hits:
        of_content[content_of(hit, contents)].append(hit)
    kept = []
    for hit in hits:
        content = content_of(hit, contents)
        if not _overlaps(span_of(hit), taken[content]):
            free = [other for other in of_content[content] if not _overlaps(span_of(other), taken[content])]
            extent = _extent(hit, free, about)
            taken[content].append(extent)
            kept.append(_moment(hit, extent))
    return kept


def _extent(hit: Hit, others: Sequence[Hit], about: float) -> Span:
    """Return the span of the chain of overlapping windows around a hit that score at most `about` less."""
    start, end = span_of(hit)
    spans = {span_of(other) for other in others if 0 <= hit.score - other.score <= about}
    while near := {span for span in spans if _overlaps(span, [(start, end)])}:
        start, end = min(start, *(s for s, _ in near)), max(end, *(e for _, e in near))
        spans -= near
    return start, end


def _by_film(moments: Sequence[Moment], contents: Mapping[Value, Value]) -> list[Moment]:
    """Return the best moment of each film, with its further moments."""
    films: defaultdict[Value, list[Moment]] = defaultdict(list)
    for moment in moments:
        films[content_of(moment, contents)].append(moment)
    return [replace(best, further=tuple(others[:_FURTHER])) for best, *others in films.values()]


def _judged(moment: Moment, judge: Callable[[float], float]) -> Moment:
    """Return the moment with its confidence."""
    return replace(
        moment,
        confidence=None if moment.words else judge(moment.score),
        further=tuple(_judged(other, judge) for other in moment.further),
    )


def _quoted(moment: Moment, ranking: Ranking) -> Moment:
    """Return the moment with the words that match."""
    further = tuple(_quoted(other, ranking) for other in moment.further)
    return replace(moment, words=ranking.quote(moment.id), further=further)


def _moment(hit: Hit, extent: Span) -> Moment:
    return Moment(id=hit.id, score=hit.score, metadata=hit.metadata, matched=hit.matched, extent=extent)


def _overlaps(span: Span, others: Sequence[Span]) -> bool:
    return any(span[0] < end and start < span[1] for start, end in others)

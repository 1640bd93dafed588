"""The JSON of the replies that describe segments: to POST /v1/search and GET /v1/moments."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from gve_ray.search import Moment
from gve_ray.serving.requests import SearchRequest
from gve_ray.serving.rerank import CONFIRMED, Reranking


def search_reply(
    model: str, hits: Sequence[Moment], request: SearchRequest, reranking: Reranking | None
) -> dict[str, Any]:
    """Return the reply with these hits. reranking: None without reranking."""
    summary = reranking and {
        "candidates": reranking.candidates,
        "judged": len(reranking.scores),
        "problem": reranking.problem,
    }
    data = [_hit(model, hit, request, reranking) for hit in hits]
    return {"object": "list", "model": model, "data": data, "rerank": summary}


def _hit(
    model: str, hit: Moment, request: SearchRequest, reranking: Reranking | None = None
) -> dict[str, Any]:
    score = None if reranking is None else reranking.scores.get(hit.id)
    is_confirmed = score is not None and score >= CONFIRMED
    is_confident = hit.confidence is not None and hit.confidence >= request.min_confidence
    shown = {
        **_segment(model, hit.id, hit.metadata),
        "score": hit.score,
        "confidence": hit.confidence,
        "confident": None if hit.confidence is None else is_confident or is_confirmed,
        "rank_before": None if reranking is None else reranking.ranks[hit.id],
        "rerank_score": score,
        "extent": dict(zip(("start", "end"), hit.extent, strict=True)),
        "matched": list(hit.matched),
        "words": None if hit.words is None else asdict(hit.words),
    }
    if request.group_by is not None:
        shown["moments"] = [_hit(model, other, request) for other in hit.further]
    return shown


def moment_reply(model: str, segment: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is known of a segment. record: its metadata."""
    return {"object": "moment", **_segment(model, segment, record)}


def _segment(model: str, segment: str, record: Mapping[str, Any]) -> dict[str, Any]:
    metadata = dict(record)
    uri, start, end = (metadata.pop(name) for name in ("uri", "start", "end"))
    at = f"{quote(model, safe='')}/{quote(segment, safe='')}"
    return {
        "id": segment,
        "uri": _shown(str(uri)),
        "start": start,
        "end": end,
        "metadata": metadata,
        "links": {
            "video": f"/media/{at}#t={start:.3f},{end:.3f}",
            "moment": f"/moments/{at}.mp4",
            "poster": f"/previews/{at}/poster.jpg",
            "strip": f"/previews/{at}/strip.jpg",
        },
    }


def _shown(uri: str) -> str:
    """Return a URI without credentials and query, which may contain keys; a path is returned
    unchanged.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"

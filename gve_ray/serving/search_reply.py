"""The JSON of the reply to POST /v1/search."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from gve_ray.search import Moment
from gve_ray.serving.requests import SearchRequest
from gve_ray.serving.rerank import CONFIRMED, Reranking


def search_reply(
    model: str, hits: Sequence[Moment], request: SearchRequest, reranking: Reranking | None
) -> dict[str, Any]:
    """Return the reply with these hits. reranking: None if the search was not to be reranked."""
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
    metadata = dict(hit.metadata)
    uri, start, end = (metadata.pop(name) for name in ("uri", "start", "end"))
    name, segment = quote(model, safe=""), quote(hit.id, safe="")
    previews = f"/previews/{name}/{segment}"
    shown = {
        "id": hit.id,
        "score": hit.score,
        "confidence": hit.confidence,
        "confident": None if hit.confidence is None else is_confident or is_confirmed,
        "rank_before": None if reranking is None else reranking.ranks[hit.id],
        "rerank_score": score,
        "uri": _shown(str(uri)),
        "start": start,
        "end": end,
        "extent": dict(zip(("start", "end"), hit.extent, strict=True)),
        "metadata": metadata,
        "matched": list(hit.matched),
        "words": None if hit.words is None else asdict(hit.words),
        "links": {
            "video": f"/media/{name}/{segment}#t={start:.3f},{end:.3f}",
            "moment": f"/moments/{name}/{segment}.mp4",
            "poster": f"{previews}/poster.jpg",
            "strip": f"{previews}/strip.jpg",
        },
    }
    if request.group_by is not None:
        shown["moments"] = [_hit(model, other, request) for other in hit.further]
    return shown


def _shown(uri: str) -> str:
    """Return a URI without credentials and query, which may contain keys; a path is returned
    unchanged.
    """
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return uri
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"

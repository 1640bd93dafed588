"""A client for a running service, used by `gve search "a red ball" --image still.png`."""

import json
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from gve_ray.search import By

URL = "http://127.0.0.1:8000"
SECONDS = 120.0


class ServiceError(RuntimeError):
    """The service did not reply or refused the request; the message says why."""


class Client:
    """A client of one service. url: base URL of the service. key: its API key, if it needs one."""

    def __init__(self, url: str = URL, *, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=SECONDS, trust_env=False)

    def search(
        self,
        text: str | None = None,
        *,
        image: Path | None = None,
        video: Path | None = None,
        like: Sequence[str] = (),
        without: str | None = None,
        top_k: int = 10,
        filter: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        model: str | None = None,
        overlapping: bool = False,
        by: "By | None" = None,
        group_by: str | None = None,
        min_confidence: float | None = None,
        rerank: bool = True,
        only: Sequence[str] = (),
        after: float | None = None,
        before: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return hits, best first, as the service sends them.

        like: IDs of hits, to which the result should be similar. without: a text that says what the pictures
        should not show. overlapping: also those that overlap a better one of the same video. by: what is
        searched; None for the service's default. group_by: "video" for each video once. min_confidence: of hits
        that are `confident`; None for the service's default. rerank: whether the best hits of a text are
        reranked, if the service has a reranker. only: URIs of videos, as hits have them, to search in. after,
        before: seconds in the video; only segments that lie between them are found. Raises ServiceError, OSError
        if a file cannot be read, or ValueError if `filter` has a condition of `only`, `after` or `before`, too.
        """
        fields: dict[str, Any] = {
            "text": text,
            "without": without,
            "top_k": str(top_k),
            "instruction": instruction,
            "model": model,
            "overlapping": "true" if overlapping else None,
            "by": by,
            "group_by": group_by,
            "min_confidence": None if min_confidence is None else str(min_confidence),
            "rerank": None if rerank else "false",
        }
        if narrowed := _narrowed(filter, only, after, before):
            fields["filter"] = json.dumps(narrowed)
        # Fields are sent as files without a name, so that the body is multipart even without a
        # file.
        parts: list[tuple[str, Any]] = [
            (name, (None, value)) for name, value in fields.items() if value is not None
        ]
        parts += [("like", (None, segment)) for segment in like]
        for name, path in (("image", image), ("video", video)):
            if path is not None:
                kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                parts.append((name, (path.name, path.read_bytes(), kind)))
        hits: list[dict[str, Any]] = self._request("POST", "/v1/search", files=parts).json()["data"]
        return hits

    def embed(self, texts: Sequence[str], *, model: str | None = None) -> list[list[float]]:
        """Return the unit vector of each text. Raises ServiceError."""
        model = model or self.models()[0]["id"]
        body = {"model": model, "input": list(texts), "encoding_format": "float"}
        rows = self._request("POST", "/v1/embeddings", json=body).json()["data"]
        return [row["embedding"] for row in rows]

    def models(self) -> list[dict[str, Any]]:
        """Return the models of the service with their indexes, as it sends them. Raises ServiceError."""
        models: list[dict[str, Any]] = self._request("GET", "/v1/models").json()["data"]
        return models

    def picture(self, path: str) -> bytes:
        """Return the JPEG at a hit's link `poster` or `strip`. Raises ServiceError."""
        if not path.startswith("/previews/"):
            raise ServiceError(f"{path}: not a picture of a hit; give its link, /previews/...")
        return self._request("GET", path).content

    def save(self, link: str, path: Path) -> None:
        """Write the mp4 at a hit's link `moment` to a file. Raises ServiceError, or OSError."""
        part = path.with_name(path.name + ".part")
        try:
            with part.open("wb") as file:
                size = 1  # the reply states it
                while file.tell() < size:
                    reply = self._request("GET", link, headers={"Range": f"bytes={file.tell()}-"})
                    size = int(reply.headers["content-range"].rpartition("/")[2])
                    file.write(reply.content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def absolute(self, link: str) -> str:
        """Return a link of a hit as a URL."""
        return str(self._http.base_url).rstrip("/") + link

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise ServiceError(
                f"{self._http.base_url}: no reply ({type(error).__name__}: {error}); is `gve serve` running "
                "there, and has it printed `serving`?"
            ) from error
        if response.is_success:
            return response
        try:
            message = response.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = response.text[:300]
        raise ServiceError(f"{self._http.base_url}: HTTP {response.status_code}: {message}")


def _narrowed(
    filter: Mapping[str, Any] | None, only: Sequence[str], after: float | None, before: float | None
) -> dict[str, Any]:
    """Return a filter with the conditions of `Client.search` on videos and times. Raises ValueError."""
    narrowed = dict(filter or {})
    conditions = {
        "only": ("uri", list(only) or None),
        "after": ("start", None if after is None else {"gte": after}),
        "before": ("end", None if before is None else {"lte": before}),
    }
    for option, (field, condition) in conditions.items():
        if condition is None:
            continue
        if field in narrowed:
            raise ValueError(f"{option}: the filter has a condition on {field}, too; give only one of them")
        narrowed[field] = condition
    return narrowed

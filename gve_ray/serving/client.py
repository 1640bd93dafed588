"""Ask a running service from Python or a shell: `gve search "a red ball" --image still.png`."""

import json
import mimetypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

URL = "http://127.0.0.1:8000"
SECONDS = 120.0


class ServiceError(RuntimeError):
    """The service did not answer, or refused; the text says why."""


class Client:
    """One service. key: its API key, where it has one."""

    def __init__(self, url: str = URL, *, key: str | None = None) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=SECONDS, trust_env=False)

    def search(
        self,
        text: str | None = None,
        *,
        image: Path | None = None,
        video: Path | None = None,
        top_k: int = 10,
        filter: Mapping[str, Any] | None = None,
        instruction: str | None = None,
        model: str | None = None,
    ) -> list[dict[str, Any]]:
        """Hits, best first, as the service gives them. Raises ServiceError, and OSError for a file."""
        fields: dict[str, Any] = {
            "text": text,
            "top_k": str(top_k),
            "instruction": instruction,
            "model": model,
        }
        if filter is not None:
            fields["filter"] = json.dumps(filter)
        # Fields as nameless files: what is sent is multipart with files and without.
        parts: list[tuple[str, Any]] = [
            (name, (None, value)) for name, value in fields.items() if value is not None
        ]
        for name, path in (("image", image), ("video", video)):
            if path is not None:
                kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
                parts.append((name, (path.name, path.read_bytes(), kind)))
        found: list[dict[str, Any]] = self._answer("/v1/search", parts)["data"]
        return found

    def _answer(self, path: str, parts: Sequence[tuple[str, Any]]) -> Any:
        try:
            answer = self._http.post(path, files=parts)
        except httpx.HTTPError as error:
            raise ServiceError(
                f"{self._http.base_url}: no answer ({type(error).__name__}: {error}); is `gve serve` running there?"
            ) from error
        if answer.is_success:
            return answer.json()
        try:
            said = answer.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            said = answer.text[:300]
        raise ServiceError(f"{self._http.base_url}: HTTP {answer.status_code}: {said}")


def as_text(hits: Sequence[Mapping[str, Any]]) -> str:
    """Hits as lines for people: score, seconds, file."""
    return "\n".join(
        f"{hit['score']:6.3f}  {hit['start']:8.2f} - {hit['end']:8.2f} s  {hit['uri']}" for hit in hits
    )

"""Prometheus metrics of the service and of Ray Serve, collected from all nodes into one page.

Every replica reports to the metrics agent of its node. The gateway that receives the request for
the page collects from all agents.
"""

import asyncio
import re
from collections.abc import Sequence

import httpx

AGENT_SECONDS = 5.0
_PREFIXES = ("ray_gve_", "ray_serve_")
_COMMENT = re.compile(r"# (?:HELP|TYPE) (\S+)")
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60]
_TOKENS = [64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072]
_ROUTES = ("/v1/embeddings", "/v1/search", "/v1/models", "/v1/session", "/media", "/previews", "/page", "/metrics",
           "/healthz", "/readyz")  # fmt: skip


class Metrics:
    """Metrics of a gateway: requests by route and status, their duration, and how far searches were reranked."""

    def __init__(self) -> None:
        from ray.serve.metrics import Counter, Histogram

        self._requests = Counter("gve_requests", "HTTP requests", tag_keys=("route", "status"))
        self._seconds = Histogram(
            "gve_request_seconds", "Time of an HTTP request", boundaries=_SECONDS, tag_keys=("route",)
        )
        self._reranks = Counter(
            "gve_reranks", "Searches that were to be reranked, by the hits judged", tag_keys=("judged",)
        )

    def observe(self, path: str, status: int, seconds: float) -> None:
        """Count one request.

        All unknown paths count as one route, so that clients cannot add routes to the page.
        """
        route = next((known for known in _ROUTES if path == known or path.startswith(f"{known}/")), "other")
        self._requests.inc(tags={"route": route, "status": str(status)})
        self._seconds.observe(seconds, tags={"route": route})

    def reranked(self, judged: int, candidates: int) -> None:
        """Count one search, as `all`, `some` or `none` of its candidates were judged."""
        share = "all" if judged == candidates else "some" if judged else "none"
        self._reranks.inc(tags={"judged": share})


class ModelMetrics:
    """Metrics of a model replica; implements `gve_ray.serving.batcher.BatchObserver`."""

    def __init__(self) -> None:
        from ray.serve.metrics import Counter, Gauge, Histogram

        self._lookups = Counter(
            "gve_model_lookups", "Single texts, by whether their vector was kept", tag_keys=("result",)
        )
        self._waiting = Gauge("gve_model_waiting", "Requests with items that wait for the model")
        self._seconds = Histogram(
            "gve_model_batch_seconds", "Time of a batch in the model", boundaries=_SECONDS
        )
        self._tokens = Histogram(
            "gve_model_batch_tokens", "Tokens of a batch, about, before padding", boundaries=_TOKENS
        )

    def looked_up(self, *, was_kept: bool) -> None:
        """Count one search for the vector of a text among those that are kept."""
        self._lookups.inc(tags={"result": "hit" if was_kept else "miss"})

    def waiting(self, count: int) -> None:
        """Record how many requests are waiting."""
        self._waiting.set(count)

    def batch(self, tokens: int, seconds: float) -> None:
        """Record one call of the model, successful or not."""
        self._tokens.observe(tokens)
        self._seconds.observe(seconds)


def agents() -> list[str]:
    """Return the URLs of the metrics agents, one per live node."""
    import ray

    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in ray.nodes()
        if node["Alive"]
    ]


async def collect(urls: Sequence[str]) -> str:
    """Return the serving metrics of these agents in the Prometheus text format, without agents that
    do not reply.
    """
    async with httpx.AsyncClient(timeout=AGENT_SECONDS, trust_env=False) as client:
        responses = await asyncio.gather(*(client.get(url) for url in urls), return_exceptions=True)
    return merged(
        [
            response.text
            for response in responses
            if isinstance(response, httpx.Response) and response.is_success
        ]
    )


def merged(pages: Sequence[str]) -> str:
    """Merge the pages of several agents: each metric family has one description
    and all samples. Only the families of gve_ray and Ray Serve are kept."""
    families: dict[str, list[str]] = {}
    for page in pages:
        family = ""
        for line in page.splitlines():
            if comment := _COMMENT.match(line):
                family = comment.group(1)
            if not family.startswith(_PREFIXES):
                continue
            lines = families.setdefault(family, [])
            if not comment or line not in lines:
                lines.append(line)
    return "".join(f"{line}\n" for lines in families.values() for line in lines)

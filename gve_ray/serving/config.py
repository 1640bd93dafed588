"""Configuration of the service: models and indexes, address, replicas and the limits of a request."""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal

from gve_ray.config import (
    AUTO,
    GIB,
    MIB,
    ActorResources,
    Auto,
    ModelConfig,
    SequenceSettings,
    check,
    check_name,
    check_numbers,
    check_url,
    expand_paths,
    number,
)


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """The limits of one request; a request that exceeds one is refused.

    max_body_bytes: size of the request body, and of the content of a URL. max_inputs: number of
    items in a request to /v1/embeddings. max_text: characters of a text or an instruction.
    max_top_k: number of hits. max_duration: seconds of a clip. max_side_pixels: width * height of
    an image or clip; four times as many for a JPEG, so that photos of 200 megapixels are accepted.
    max_frames: frames of a clip. decode_seconds: for decoding one image or clip in a separate
    process. decode_memory: bytes, for the same. receive_seconds: time to receive the body.
    fetch_seconds: time to fetch a URL. request_seconds: time for the whole request, from its
    arrival. max_bodies_bytes: of the bodies of all requests in progress, in each proxy and each
    replica of the gateway. max_moment_seconds: of a moment that is sent as an mp4. max_moments_bytes:
    of the last mp4s of moments, which each replica of the gateway keeps on its disk; and of the largest.
    """

    max_body_bytes: int = number(64 * MIB, above=0)
    max_inputs: int = number(2048, above=0)  # the limit of OpenAI; LangChain sends 1,000 at a time
    max_text: int = number(100_000, above=0)
    max_top_k: int = number(1000, above=0)
    max_duration: float = number(3600.0, above=0)
    max_side_pixels: int = number(8192 * 8192, above=0)
    max_frames: int = number(250_000, above=0)
    decode_seconds: float = number(20.0, above=0)
    decode_memory: int = number(2 * GIB, above=0)
    receive_seconds: float = number(30.0, above=0)
    fetch_seconds: float = number(15.0, above=0)
    request_seconds: float = number(60.0, above=0)
    max_bodies_bytes: int = number(512 * MIB, above=0)
    max_moment_seconds: float = number(600.0, above=0)
    max_moments_bytes: int = number(GIB, above=0)

    def __post_init__(self) -> None:
        check_numbers(self, "limits")
        check(
            self.max_bodies_bytes >= self.max_body_bytes,
            f"limits.max_bodies_bytes={self.max_bodies_bytes}: use at least max_body_bytes={self.max_body_bytes}",
        )


@dataclass(frozen=True, kw_only=True)
class ConnectionLimits:
    """The limits of connections to each HTTP proxy.

    most: number of open connections; more are closed at once. header_seconds: time for the request
    line and the headers of a request. idle_seconds: time for which a connection stays open after a
    reply.
    """

    most: int = number(1024, at_least=1)
    header_seconds: float = number(10.0, above=0)
    idle_seconds: int = number(90, at_least=1)  # more than the 60 s of common load balancers

    def __post_init__(self) -> None:
        check_numbers(self, "connections")


@dataclass(frozen=True, kw_only=True)
class ReplicasConfig(ActorResources):
    """The number of replicas, from `replicas` to `max_replicas` (0: always `replicas`), and what
    each of them reserves.

    replicas: number at the start, and the least; auto starts with one, and adds others under load
    while the cluster has room. max_replicas: the most. busy: target number of concurrent requests
    per replica; above it, more replicas are started.
    """

    count_option: ClassVar[str] = "replicas"
    most_option: ClassVar[str | None] = "max_replicas"
    num_cpus: float | Auto = number(AUTO, at_least=0)
    num_gpus: float | Auto = number(AUTO, at_least=0)
    replicas: int | Auto = number(AUTO, at_least=1)
    max_replicas: int = 0
    busy: float = number(16.0, above=0)

    def __post_init__(self) -> None:
        check_numbers(self)
        check(
            self.max_replicas == 0 or self.max_replicas >= (self.count or 1),
            f"max_replicas={self.max_replicas}: use 0, or at least replicas={self.replicas}",
        )


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model, with or without an index, and the name that requests use for it.

    name: used by requests. index: path or URI of a folder that jobs/index.py wrote. The model that
    embedded its segments also embeds the queries, so `model` and the four settings below must be
    left out. model: a model without an index, for /v1/embeddings only. frames, max_pixels,
    min_pixels, max_tokens: None means the value that is saved with the weights, or else the default
    of gve_ray.embedder. dimensions: the Matryoshka dimensions that the model was trained for.
    max_batch_tokens: approximate number of tokens in one batch of waiting requests.
    max_request_tokens: approximate number of tokens of one request; a larger one is refused with
    413. max_client_tokens: approximate number of tokens of all waiting requests from one address
    per replica; more are refused with 429. cached_queries: number of texts whose vectors each replica
    keeps, so that a query that repeats does not need the model; 0 keeps none. max_ongoing: concurrent
    requests per replica. max_queued: requests that may wait for a replica; more are refused with 503.
    """

    name: str
    index: str | None = None
    model: ModelConfig | None = None
    frames: int | None = None
    max_pixels: int | None = None
    min_pixels: int | None = None
    max_tokens: int | None = None
    dimensions: list[int] = field(default_factory=list)
    max_batch_tokens: int = number(8192, at_least=1)
    max_request_tokens: int = number(1 << 20, at_least=1)  # 2,048 texts of 1,500 characters
    max_client_tokens: int = number(4 << 20, at_least=1)
    cached_queries: int = number(4096, at_least=0)
    max_ongoing: int = number(128, at_least=1)
    max_queued: int = number(256, at_least=1)
    replicas: ReplicasConfig = field(default_factory=ReplicasConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "index")
        where = f"models.{self.name}"
        check_name("models", self.name)
        check(
            (self.index is None) != (self.model is None),
            f"{where}: name either an index or a model; an index names its model itself",
        )
        own = list(self.sequence_settings)
        check(self.index is None or not own, f"{where}: {', '.join(own)}: leave out; the index decides them")
        check_numbers(self, where)
        check(
            all(dimension > 0 for dimension in self.dimensions),
            f"{where}.dimensions={self.dimensions}: use positive sizes",
        )

    @property
    def sequence_settings(self) -> dict[str, Any]:
        """The settings of the embedder that are set here."""
        settings = {option.name: getattr(self, option.name) for option in fields(SequenceSettings)}
        return {name: value for name, value in settings.items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """The deployment that handles HTTP requests and decodes media.

    readers: decoding processes per replica. max_ongoing: concurrent requests per replica.
    max_queued: requests that may wait for a replica; more are refused with 503.
    """

    readers: int = number(2, at_least=1)
    max_ongoing: int = number(128, at_least=1)
    max_queued: int = number(256, at_least=1)
    replicas: ReplicasConfig = field(default_factory=ReplicasConfig)

    def __post_init__(self) -> None:
        check_numbers(self, "gateway")


@dataclass(frozen=True, kw_only=True)
class RerankConfig:
    """A model that looks at the pictures of the best hits of a text, and sorts them anew.

    url: of its endpoint, ending in /v1; None: no reranking. model: its name there. api: chat asks a
    vision-language model at /chat/completions whether a hit is what is searched for; rerank asks a
    reranker at /rerank, in the form of vLLM. key_variable: the environment variable with the key of the
    endpoint, on the nodes of the gateway. candidates: number of the best hits that are judged. concurrency:
    requests of a replica of the gateway at the same time. seconds: for all requests of a search; hits that
    are not judged by then keep their places.
    """

    url: str | None = None
    model: str = ""
    api: Literal["chat", "rerank"] = "chat"
    key_variable: str = "OPENAI_API_KEY"
    candidates: int = number(50, at_least=1, at_most=1000)
    concurrency: int = number(16, at_least=1, at_most=256)
    seconds: float = number(5.0, above=0)

    def __post_init__(self) -> None:
        check_numbers(self, "rerank")
        if self.url is not None:
            check_url("rerank", "openai", self.url)
            check(bool(self.model), "rerank.model='': name the model of the endpoint")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Configuration of jobs/serve.py, which serves models and indexes over HTTP.

    models: the first is the default. index: a folder that jobs/index.py wrote; it replaces `models` by
    one model named `videos` with this index. host, port: the address to listen on. Any
    address other than the loopback needs an API key. key_variable: the environment variable with
    the API key. url_hosts: the hosts from which images and clips may be fetched, as `example.org`,
    `*.example.org` or `host:port`. rerank: see its section.
    """

    job: ClassVar[str] = "serve"
    models: list[ServedModel] = field(default_factory=list)
    index: str | None = None
    host: str = "127.0.0.1"
    port: int = number(8000, at_least=0, at_most=65535, hint="0 is a free port")
    key_variable: str = "GVE_API_KEY"
    url_hosts: list[str] = field(default_factory=list)
    limits: RequestLimits = field(default_factory=RequestLimits)
    connections: ConnectionLimits = field(default_factory=ConnectionLimits)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)
    rerank: RerankConfig = field(default_factory=RerankConfig)

    def __post_init__(self) -> None:
        if self.index is not None:
            object.__setattr__(self, "models", [ServedModel(name="videos", index=self.index)])
            object.__setattr__(self, "index", None)  # said in models from now on
        names = [served.name for served in self.models]
        check(bool(names), "models=[]: name at least one model, or an index with --index FOLDER")
        check(len(set(names)) == len(names), f"models: names repeat: {names}")
        check_numbers(self)
        check(bool(self.host), "host='': name an address, e.g. 127.0.0.1")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)

    def described(self) -> Sequence[str]:
        """Return a line for each model: its name and its index or weights."""
        return [
            f"{served.name:<12} {served.index or (served.model and served.model.model)}"
            for served in self.models
        ]


def is_loopback(host: str) -> bool:
    """Return whether an address or a host name is the loopback of this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

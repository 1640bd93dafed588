"""Configuration of the service: models and indexes, address, replicas and the limits of a request."""

import ipaddress
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import ClassVar

from gve_ray.config import GIB, MIB, NAME, ModelConfig, expand_paths


def _check(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """The limits of one request; a request that exceeds one is refused.

    max_body_bytes: size of the request body, and of the content of a URL. max_inputs: number of
    items in a request to /v1/embeddings. max_text: characters of a text or an instruction.
    max_top_k: number of hits. max_duration: seconds of a clip. max_side_pixels: width * height of
    an image or clip; four times as many for a JPEG, so that photos of 200 megapixels are accepted.
    max_frames: frames of a clip. decode_seconds, decode_memory (bytes): for decoding one image or
    clip in a separate process. receive_seconds: time to receive the body. fetch_seconds: time to
    fetch a URL. request_seconds: time for the whole request.
    """

    max_body_bytes: int = 64 * MIB
    max_inputs: int = 2048  # the limit of OpenAI; LangChain sends 1,000 at a time
    max_text: int = 100_000
    max_top_k: int = 1000
    max_duration: float = 3600.0
    max_side_pixels: int = 8192 * 8192
    max_frames: int = 250_000
    decode_seconds: float = 20.0
    decode_memory: int = 2 * GIB
    receive_seconds: float = 30.0
    fetch_seconds: float = 15.0
    request_seconds: float = 60.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            _check(value > 0, f"limits.{name}={value}: a limit is positive; raise it to lift the limit")


@dataclass(frozen=True, kw_only=True)
class ReplicasConfig:
    """The number of replicas, from `replicas` to `max_replicas` (0: always `replicas`), and their
    resources.

    busy: target number of concurrent requests per replica; above it, more replicas are started.
    num_cpus, num_gpus, memory (bytes), accelerator_type: what each replica reserves, as in
    gve_ray.config.StageResources.
    """

    replicas: int = 1
    max_replicas: int = 0
    busy: float = 16.0
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory: int = 0
    accelerator_type: str | None = None

    def __post_init__(self) -> None:
        _check(self.replicas >= 1, f"replicas={self.replicas}: use 1 or more")
        _check(
            self.max_replicas == 0 or self.max_replicas >= self.replicas,
            f"max_replicas={self.max_replicas}: use 0, or at least replicas={self.replicas}",
        )
        _check(self.busy > 0, f"busy={self.busy}: use a positive number")
        for name in ("num_cpus", "num_gpus", "memory"):
            value = getattr(self, name)
            _check(value >= 0, f"{name}={value}: not negative; use 0 for none")


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """A model, with or without an index, and the name that requests use for it.

    index: path or URI of a folder that jobs/index.py wrote. The model that embedded its segments
    also embeds the queries, so `model` and the four settings below must be left out. model: a model
    without an index, for /v1/embeddings only. frames, max_pixels, min_pixels, max_tokens: None
    means the value that is saved with the weights, or else the default of gve_ray.embedder.
    dimensions: the Matryoshka dimensions that the model was trained for. max_batch_tokens:
    approximate number of tokens in one batch of waiting requests. max_ongoing: concurrent requests
    per replica. max_queued: requests that may wait for a replica; more are refused with 503.
    """

    name: str
    index: str | None = None
    model: ModelConfig | None = None
    frames: int | None = None
    max_pixels: int | None = None
    min_pixels: int | None = None
    max_tokens: int | None = None
    dimensions: list[int] = field(default_factory=list)
    max_batch_tokens: int = 8192
    max_ongoing: int = 128
    max_queued: int = 256
    replicas: ReplicasConfig = field(default_factory=ReplicasConfig)

    def __post_init__(self) -> None:
        expand_paths(self, "index")
        where = f"models.{self.name}"
        _check(
            bool(NAME.fullmatch(self.name)),
            f"models: name={self.name!r}: use letters, digits, '.', '-' and '_'",
        )
        _check(
            (self.index is None) != (self.model is None),
            f"{where}: name either an index or a model; an index names its model itself",
        )
        own = [name for name in ("frames", "max_pixels", "min_pixels", "max_tokens") if getattr(self, name)]
        _check(self.index is None or not own, f"{where}: {', '.join(own)}: leave out; the index decides them")
        for name in ("max_batch_tokens", "max_ongoing", "max_queued"):
            value = getattr(self, name)
            _check(value > 0, f"{where}.{name}={value}: use a positive number")
        _check(
            all(dimension > 0 for dimension in self.dimensions),
            f"{where}.dimensions={self.dimensions}: use positive sizes",
        )


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """The deployment that handles HTTP requests and decodes media.

    readers: decoding processes per replica. max_ongoing: concurrent requests per replica.
    max_queued: requests that may wait for a replica; more are refused with 503.
    """

    readers: int = 2
    max_ongoing: int = 128
    max_queued: int = 256
    replicas: ReplicasConfig = field(default_factory=ReplicasConfig)

    def __post_init__(self) -> None:
        for name in ("readers", "max_ongoing", "max_queued"):
            value = getattr(self, name)
            _check(value >= 1, f"gateway.{name}={value}: use 1 or more")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Configuration of jobs/serve.py, which serves models and indexes over HTTP.

    host, port: the address to listen on. Any address other than the loopback needs an API key in
    the environment variable `key_variable`. url_hosts: the hosts from which images and clips may be
    fetched, as `example.org`, `*.example.org` or `host:port`.
    """

    job: ClassVar[str] = "serve"
    models: list[ServedModel]
    host: str = "127.0.0.1"
    port: int = 8000
    key_variable: str = "GVE_API_KEY"
    url_hosts: list[str] = field(default_factory=list)
    limits: RequestLimits = field(default_factory=RequestLimits)
    gateway: GatewayConfig = field(default_factory=GatewayConfig)

    def __post_init__(self) -> None:
        names = [served.name for served in self.models]
        _check(bool(names), "models=[]: name at least one model or index")
        _check(len(set(names)) == len(names), f"models: names repeat: {names}")
        _check(0 <= self.port < 65536, f"port={self.port}: use 1 to 65535, or 0 for a free one")
        _check(bool(self.host), "host='': name an address, e.g. 127.0.0.1")

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

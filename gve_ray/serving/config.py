"""What is served, where, and what a request may cost."""

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
    """What one request may cost before it is refused.

    max_body_bytes: of the request, and of what a URL gives. max_inputs: items of one /v1/embeddings. max_text:
    characters. max_duration: seconds of a clip. max_side_pixels: width * height of a picture or
    clip, of a JPEG four times as many: photos of 200 megapixels pass.
    decode_seconds, decode_memory: of one picture or clip, in a process of its own. receive_seconds: until the
    body is there. fetch_seconds: until a URL's content is there. request_seconds: for all of it.
    """

    max_body_bytes: int = 64 * MIB
    max_inputs: int = 2048  # as OpenAI's; LangChain sends 1,000 at a time
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
    """How many replicas, between `replicas` and `max_replicas` (0: always `replicas`), and what each holds.

    busy: requests at a time that a replica is to have; more replicas are started above it. num_cpus, num_gpus,
    memory (bytes), accelerator_type: as of gve_ray.config.StageResources.
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
    """One model by the name that requests call it.

    index: folder of jobs/index.py, by its path or URI; what embedded its segments then embeds the queries, and
    `model` and the four settings are left out. model: without an index, for /v1/embeddings alone; frames,
    max_pixels, min_pixels and max_tokens are those saved with the weights, or gve_ray.embedder's own, where they are
    None. dimensions: Matryoshka sizes that it was trained for. max_batch_tokens: requests that wait for the model
    go into it together, about so many tokens at a time. A replica has max_ongoing requests at a time, and max_queued
    more wait for it; others are refused with 503.
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
            all(one > 0 for one in self.dimensions),
            f"{where}.dimensions={self.dimensions}: use positive sizes",
        )


@dataclass(frozen=True, kw_only=True)
class GatewayConfig:
    """What speaks HTTP: parses, guards, decodes. readers: decoding processes of each replica. A replica has
    max_ongoing requests at a time, and max_queued more wait for it; others are refused with 503."""

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
    """jobs/serve.py: models and indexes as one HTTP service.

    host, port: where it listens. Beyond the loopback a key is needed, in the environment variable
    `key_variable`.
    url_hosts: from where pictures and clips may be fetched, as `example.org`, `*.example.org` or `host:port`.
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
        names = [one.name for one in self.models]
        _check(bool(names), "models=[]: name at least one model or index")
        _check(len(set(names)) == len(names), f"models: names repeat: {names}")
        _check(0 <= self.port < 65536, f"port={self.port}: use 1 to 65535, or 0 for a free one")
        _check(bool(self.host), "host='': name an address, e.g. 127.0.0.1")

    @property
    def is_local(self) -> bool:
        """Whether only this machine can call it."""
        return is_loopback(self.host)

    def described(self) -> Sequence[str]:
        """One line a model, for people."""
        return [f"{one.name:<12} {one.index or (one.model and one.model.model)}" for one in self.models]


def is_loopback(host: str) -> bool:
    """Whether an address or name is this machine's own loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False

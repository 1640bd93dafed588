"""What can be known to go wrong before synthesis begins: its paths, models and resources."""

from collections.abc import Callable, Sequence

from gve_ray.config import SynthesisConfig
from gve_ray.doctor import Needs, Read, Workers, pool_of, weights_of
from gve_ray.inputs.manifest import video_uris
from gve_ray.job import check_path


def check_paths(config: SynthesisConfig) -> None:
    """Refuse paths that are gone when the job ends."""
    check_path("input", config.input)
    check_path("output", config.output)


def check_models(config: SynthesisConfig) -> None:
    """Every model that the config names is a folder with a model in it, or can be had from the hub."""
    for pool in _pools(config):
        for weights in pool.loads:
            weights.check()


def needs_of(config: SynthesisConfig, videos: Callable[[], Sequence[str]] | None = None) -> Needs:
    """What synthesis needs of a cluster. videos: their URIs, where they are known; else `input` is read for them."""

    def check() -> None:
        check_paths(config)
        check_models(config)

    return Needs(
        job=config.job,
        check=check,
        workers=_pools(config),
        reads=[Read(option="input", uri=config.input, files=videos or (lambda: video_uris(config.input)))],
        writes={"output": config.output} | ({"work": config.work} if config.work else {}),
    )


def _pools(config: SynthesisConfig) -> list[Workers]:
    captioner, embedder = config.captioner, config.quality.consistency
    model = weights_of("captioner", captioner.model, None, revision=captioner.revision)
    pools = [
        pool_of("resources.media", config.resources.media),
        pool_of("resources.captioner", config.resources.captioner, model),
    ]
    if embedder.model is not None:
        where = "quality.consistency"
        model = weights_of(where, embedder.model, embedder.adapter, revision=embedder.revision)
        pools.append(pool_of("resources.consistency", config.resources.consistency, model))
    return pools

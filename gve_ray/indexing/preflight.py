"""Check the paths, model and resources of an index job before it starts."""

from collections.abc import Callable, Sequence

from gve_ray.doctor import Needs, Read, absolute, pool_of
from gve_ray.embedder import EmbedderSettings
from gve_ray.indexing.config import IndexConfig
from gve_ray.inputs.manifest import video_uris
from gve_ray.inputs.model import check_embedder, loads_of
from gve_ray.job import PreflightError, check_path


def check(config: IndexConfig) -> EmbedderSettings:
    """Check everything that needs no cluster; return the settings with which the model embeds.

    The videos are not checked: `read_manifest` lists them. Raises PreflightError.
    """
    check_path("input", config.input)
    check_path("output", config.output)
    try:
        settings = EmbedderSettings(
            frames=config.frames,
            max_pixels=config.max_pixels,
            min_pixels=config.min_pixels,
            max_tokens=config.max_tokens,
        )
        check_embedder("model", config.model, settings)
    except ValueError as error:
        raise PreflightError(str(error)) from error
    return settings


def needs_of(config: IndexConfig, videos: Callable[[], Sequence[str]] | None = None) -> Needs:
    """Return what the job needs from a cluster.

    videos: returns the URIs of the videos; None to read them from `input`.
    """
    return Needs(
        job=config.job,
        check=lambda: check(config),
        workers=[
            pool_of("resources.probe", config.resources.probe),
            pool_of("resources.embed", config.resources.embed, loads_of("model", config.model)),
        ],
        reads=[Read(option="input", uri=config.input, files=videos or (lambda: video_uris(config.input)))],
        writes={"output": absolute(config.output)},
    )

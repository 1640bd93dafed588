"""What indexing needs before it begins: videos, a model, a folder and workers."""

from collections.abc import Callable, Sequence

from gve_ray.embedder import EmbedderSettings
from gve_ray.indexing.config import IndexConfig
from gve_ray.inputs.manifest import video_uris
from gve_ray.preflight import Embedder, Input, Needs, absolute, model_workers, workers_of


def needs_of(config: IndexConfig, videos: Callable[[], Sequence[str]] | None = None) -> Needs:
    """Return what the config needs. videos: returns their URIs; by default they are read from `input`."""
    resources = config.resources
    embedder = Embedder(
        option="model", model=config.model, settings=EmbedderSettings(**config.sequence_settings)
    )
    return Needs(
        job=config.job,
        workers=[
            workers_of("resources.probe", resources.probe, grows="cluster"),
            model_workers("resources.embed", resources.embed, [embedder]),
        ],
        paths={"input": config.input, "output": config.output},
        inputs=[
            Input(option="input", uri=config.input, list_files=videos or (lambda: video_uris(config.input)))
        ],
        outputs={"output": absolute(config.output)},
        embedders=[embedder],
    )

"""What indexing needs before it begins: videos, a model, a folder and workers."""

from collections.abc import Callable, Sequence

from gve_ray.embedder import EmbedderSettings
from gve_ray.endpoint import Endpoint
from gve_ray.indexing.config import IndexConfig, SpeechConfig
from gve_ray.inputs.manifest import video_uris
from gve_ray.job import PreflightError
from gve_ray.preflight import Embedder, Input, Needs, absolute, model_workers, workers_of
from gve_ray.stage.named import load_named


def needs_of(config: IndexConfig, videos: Callable[[], Sequence[str]] | None = None) -> Needs:
    """Return what the config needs. videos: returns their URIs; by default they are read from `input`."""
    resources, speech = config.resources, config.words.speech
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
        endpoints={} if speech.url is None else {"words.speech": Endpoint(speech.url, speech.key_variable)},
        rules=lambda: _check_function(speech),
        together=config.watch,  # the actors with the model stay while others read files
    )


def _check_function(speech: SpeechConfig) -> None:
    """Raise PreflightError unless the function that transcribes, if there is one, can be imported."""
    if speech.function is None:
        return
    try:
        if not callable(load_named(speech.function)):
            raise TypeError("not a function")
    except Exception as error:  # importing the user's module may raise any exception
        raise PreflightError(
            f"words.speech.function={speech.function!r}: cannot be used ({type(error).__name__}: {error}); name a "
            "function as module:function, in an installed package, in the current folder, or in the --working-dir "
            "of the Ray job"
        ) from error

"""List what a synthesis job needs before it starts: videos, models, folders and workers."""

from collections.abc import Callable, Sequence

from gve_ray.endpoint import Endpoint
from gve_ray.inputs.manifest import video_uris
from gve_ray.preflight import Embedder, Input, Needs, Workers, model_workers, weights_of, workers_of
from gve_ray.synthesis.config import CaptionerConfig, SynthesisConfig
from gve_ray.synthesis.pipeline import stages_of
from gve_ray.synthesis.vllm_captioner import CPU_KV_CACHE_BYTES

# Of the GPUs, while scoring and captioning run at the same time: a score takes a twelfth of the time of the
# captions of a video (docs/cluster.md).
_SCORING_SHARE = 0.1
# Of the CPUs, while all stages run at the same time: about half of those that the models leave for decoding.
_SPLITTING_SHARE = 0.15


def needs_of(config: SynthesisConfig, videos: Callable[[], Sequence[str]] | None = None) -> Needs:
    """Return what the config needs. videos: returns their URIs; by default they are read from `input`."""
    return Needs(
        job=config.job,
        workers=_workers(config),
        paths={"input": config.input, "output": config.output},
        inputs=[
            Input(option="input", uri=config.input, list_files=videos or (lambda: video_uris(config.input)))
        ],
        outputs={"output": config.output} | ({"work": config.work} if config.work else {}),
        endpoints=_endpoints(config.captioner),
        rules=lambda: stages_of(config),
    )


def _endpoints(captioner: CaptionerConfig) -> dict[str, Endpoint]:
    return {"captioner": Endpoint(captioner.url, captioner.key_variable)} if captioner.url else {}


def _workers(config: SynthesisConfig) -> list[Workers]:
    captioner, consistency = config.captioner, config.quality.consistency
    share = 1 - _SCORING_SHARE
    if captioner.engine == "openai":  # its actors wait for the endpoint
        captions = workers_of("resources.captioner", config.resources.captioner, grows="cluster", share=share)
    else:
        captions = workers_of(
            "resources.captioner",
            config.resources.captioner,
            weights_of(
                "captioner",
                captioner,
                dtype=captioner.engine_args.get("dtype", "auto"),
                dtype_option="engine_args.dtype",
            ),
            gpus=captioner.tensor_parallel_size,
            more_bytes=CPU_KV_CACHE_BYTES,
            large=True,  # one engine batches all requests
            grows="cluster",
            share=share,
        )
    workers = [workers_of("resources.media", config.resources.media, grows="cluster"), captions]
    if config.shots.is_on:
        shots = config.resources.shots
        workers.append(workers_of("resources.shots", shots, grows="cluster", share=_SPLITTING_SHARE))
    if consistency.model is not None:
        embedder = Embedder(option="quality.consistency", model=consistency.embedder, settings=None)
        resources = config.resources.consistency
        workers.append(model_workers("resources.consistency", resources, [embedder], share=_SCORING_SHARE))
    content = config.quality.content
    if len(content.cuts) > len(content.classifiers):
        workers.append(workers_of("resources.content", config.resources.content, grows="cluster"))
    if content.classifiers:
        loads = [
            weights
            for name, model in content.classifiers.items()
            for weights in weights_of(f"quality.content.{name}", model, dtype="float32")
        ]
        workers.append(
            workers_of(
                "resources.classifiers",
                config.resources.classifiers,
                loads,
                grows="cluster",
                share=_SCORING_SHARE,
            )
        )
    workers += [
        workers_of(f"stages.{stage.name}.resources", stage.resources, grows="cluster")
        for stage in config.stages
    ]
    return workers

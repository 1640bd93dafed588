"""Score videos by image classifiers: whether they are safe for work, and how well they are made.

Any image-classification or regression model of transformers will do; none ships with the package.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from gve_ray.config import resolve_model
from gve_ray.media import decode_jpeg
from gve_ray.stage import report_status
from gve_ray.store import Store
from gve_ray.synthesis.config import ClassifierConfig

# How the scores of a video's frames become one: a single frame can be unsafe, beauty is that of the whole.
_POOLING = {"nsfw": "max", "aesthetic": "mean"}


def classifier_schema(names: Sequence[str]) -> pa.Schema:
    """Return the schema of the scores by these filters."""
    return pa.schema([("video_id", pa.string()), *((name, pa.float64()) for name in names)])


class ClassifierWorker:
    """Worker of the stage classifiers: rows of video_id -> rows of `classifier_schema`.

    models: the model of each filter. decoded: the store of decoded videos, from which the frames are read.
    """

    def __init__(self, models: Mapping[str, ClassifierConfig], decoded: Store) -> None:
        self._decoded = decoded
        self._models = {name: _Classifier(name, config) for name, config in models.items()}

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        stored = self._decoded.take([row["video_id"] for row in rows], ["video_id", "frames"]).to_pylist()
        return [
            {
                "video_id": row["video_id"],
                **{name: model.score(row["frames"]) for name, model in self._models.items()},
            }
            for row in stored
        ]


class _Classifier:
    """A model and the output of it that is the score."""

    def __init__(self, name: str, config: ClassifierConfig) -> None:
        """Load the model. Raises ValueError if it has no such label, OSError if it has no safetensors."""
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        from gve_ray.embedder.model import default_device

        assert config.model is not None, "without a model there is no stage"
        report_status(f"loading {config.model}")
        folder = resolve_model(config.model)
        options = {"revision": config.revision, "trust_remote_code": False}
        self._processor: Any = AutoImageProcessor.from_pretrained(folder, **options)
        model = AutoModelForImageClassification.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, **options
        )
        self._model: Any = model.to(default_device()).eval()
        self._pooling = _POOLING[name]
        labels: dict[str, int] = model.config.label2id
        where = f"quality.content.{name}"
        if config.label is None and len(labels) > 1:
            raise ValueError(
                f"{where}.label: the model {config.model!r} has several; name one of {sorted(labels)}"
            )
        if config.label is not None and config.label not in labels:
            raise ValueError(
                f"{where}.label={config.label!r}: {config.model!r} has {sorted(labels)}; name one of them"
            )
        self._column = 0 if config.label is None else labels[config.label]
        self._is_multi_label = model.config.problem_type == "multi_label_classification"

    def score(self, jpegs: Sequence[bytes]) -> float:
        """Return the score of a video by its frames: a probability, or the output of a regression model."""
        import torch

        inputs = self._processor(images=[decode_jpeg(jpeg) for jpeg in jpegs], return_tensors="pt")
        with torch.inference_mode():
            logits = self._model(**inputs.to(self._model.device)).logits  # [frames, labels]
        if self._is_multi_label:
            logits = logits.sigmoid()
        elif logits.shape[1] > 1:
            logits = logits.softmax(dim=1)
        scores = logits[:, self._column].float()
        return float(scores.max() if self._pooling == "max" else scores.mean())

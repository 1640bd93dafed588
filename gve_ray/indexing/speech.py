"""Transcribe the speech of each video: a stage of the index job.

The sound is cut into pieces, each of which is sent to an OpenAI-compatible endpoint, or given to a function of
the user's. If the endpoint fails, the video is rejected by this stage, and the next run tries it again; it is
indexed by its pictures nevertheless.
"""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa

from gve_ray.endpoint import Endpoint, EndpointError, FormFile
from gve_ray.indexing.config import SpeechConfig
from gve_ray.media import DecodePool, Limits, MediaError
from gve_ray.media.sound import RATE, Sound
from gve_ray.media.source import is_folder
from gve_ray.media.subtitles import Cue, cue_of, sorted_cues
from gve_ray.stage import Reject, row_finished
from gve_ray.stage.named import load_named

log = logging.getLogger(__name__)

SPEECH_SCHEMA = pa.schema(
    [
        ("speech", pa.string()),  # changes with the video and with the model (speech_version)
        ("model", pa.string()),  # the name of the model, or of the function
        ("starts", pa.list_(pa.float64())),  # of the sentences, seconds on the video's own clock, ascending
        ("ends", pa.list_(pa.float64())),
        ("texts", pa.list_(pa.string())),
        ("faults", pa.list_(pa.string())),  # what could not be read, and why
    ]
)
PENDING_SPEECH = pa.schema([("speech", pa.string()), ("uri", pa.string())])
NOT_TRANSCRIBED = "not_transcribed"  # reject reason: the endpoint has failed
_READER = 1  # changes when the same file and model give other cues
# Whisper treats a segment like this as silence, although it has text (openai/whisper, transcribe.py).
_NO_SPEECH_PROBABILITY, _LEAST_LOGPROB = 0.6, -1.0

# start and end in seconds from the start of a piece, and the text
Said = tuple[float, float, str]


class SpeechWorker:
    """Stage worker: takes rows of `PENDING_SPEECH`, returns rows of `SPEECH_SCHEMA`.

    config: with an endpoint or a function.
    """

    def __init__(self, config: SpeechConfig, limits: Limits) -> None:
        self._config, self._limits = config, limits
        self._processes = DecodePool(limits, config.concurrency)
        self._threads = ThreadPoolExecutor(config.concurrency)
        self._recognize = recognizer_of(config)
        self._failure: EndpointError | None = None  # after which the endpoint is not asked any more

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any] | Reject]:
        results = []
        for result in self._threads.map(self._transcribe, rows):
            results.append(result)
            row_finished()
        return results

    def _transcribe(self, row: Mapping[str, Any]) -> dict[str, Any] | Reject:
        cues: list[Cue | None] = []
        faults: list[str] = []
        start: float | None = None
        is_last = is_folder(row["uri"])
        while not is_last:
            try:
                with self._processes.lend() as process:
                    sound = process.read_sound(row["uri"], start=start, seconds=self._config.seconds)
            except MediaError as error:
                faults.append(str(error))
                break
            try:
                cues += self._cues(sound)
            except EndpointError as error:
                if error.kind != "refused":
                    self._failure = error
                return Reject(NOT_TRANSCRIBED, str(error))
            is_last, start = sound.following is None, sound.following
        ordered = sorted_cues(cues)
        return {
            "speech": row["speech"],
            "model": self._config.name,
            "starts": [cue.start for cue in ordered],
            "ends": [cue.end for cue in ordered],
            "texts": [cue.text for cue in ordered],
            "faults": faults,
        }

    def _cues(self, sound: Sound) -> list[Cue | None]:
        """Return the spoken sentences of a piece, with their times in the file. Raises EndpointError."""
        if not sound.samples.any():
            return []
        if self._failure is not None:
            raise self._failure
        seconds = len(sound.samples) / RATE
        return [
            cue_of(sound.start + min(start, seconds), sound.start + min(end, seconds), text)
            for start, end, text in self._recognize(sound)
        ]


def speech_version(version: str, config: SpeechConfig) -> str:
    """Return 32 hex digits that identify what a model hears in a version of a video (`catalog.version_of`)."""
    parts = [_READER, version, config.name, config.language]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def recognizer_of(config: SpeechConfig) -> Callable[[Sound], Iterable[Said]]:
    """Return what transcribes a piece of sound. Raises ImportError or AttributeError for a function."""
    if config.function is not None:
        function = load_named(config.function)
        return lambda sound: function(sound.samples.astype(np.float32) / 2**15)
    endpoint = Endpoint(str(config.url), config.key_variable)
    fields = {
        "model": config.model,
        "response_format": "verbose_json",
        "timestamp_granularities[]": "segment",
        **({"language": config.language} if config.language else {}),
    }

    def ask(sound: Sound) -> list[Said]:
        files = {"file": FormFile("sound.wav", "audio/wav", sound.as_wav())}
        seconds = len(sound.samples) / RATE
        return endpoint.post_form(
            "audio/transcriptions", fields, files, lambda reply: read_transcription(reply, seconds)
        )

    return ask


def read_transcription(reply: Any, seconds: float) -> list[Said]:
    """Return the segments of a transcription; without segments, the whole text.

    seconds: length of the sound. Raises AttributeError, KeyError, TypeError or ValueError for other JSON.
    """
    segments = reply.get("segments")
    if segments is None:
        text = reply["text"].strip()
        return [(0.0, seconds, text)] if text else []
    said = []
    for segment in segments:
        start, end = float(segment["start"]), float(segment["end"])
        if not (0 <= start < math.inf and math.isfinite(end)):
            raise ValueError(f"a segment from {start:g} to {end:g} s")
        is_silence = (
            float(segment.get("no_speech_prob") or 0.0) > _NO_SPEECH_PROBABILITY
            and float(segment.get("avg_logprob") or 0.0) < _LEAST_LOGPROB
        )
        if not is_silence:
            said.append((start, end, str(segment["text"])))
    return said

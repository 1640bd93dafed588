"""Speech recognition with a real endpoint that hears tones, and answers with their words."""

import io
import json
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from gve_ray.config import ModelConfig
from gve_ray.indexing.config import IndexConfig, SpeechConfig, WordsConfig
from gve_ray.indexing.needs import needs_of
from gve_ray.indexing.speech import PENDING_SPEECH, SPEECH_SCHEMA, SpeechWorker, speech_version
from gve_ray.job import PreflightError
from gve_ray.media import Limits
from gve_ray.preflight import check_request
from gve_ray.stage import Reject
from tests.endpoint import Reply, http_endpoint
from tests.media.tones import Spoken, hear, write_speaking

SPOKEN = [(1.0, 2.0, "treasure"), (9.5, 10.5, "island"), (14.0, 15.0, "parrot"), (23.0, 24.0, "lantern")]


def segments_of(body: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what is heard in the file of a request, as the segments of Whisper."""
    with wave.open(io.BytesIO(body["file"])) as file:
        rate = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    return [
        {"id": i, "start": start, "end": end, "text": f" {word}", "avg_logprob": -0.2, "no_speech_prob": 0.01}
        for i, (start, end, word) in enumerate(hear(samples, rate))
    ]


def transcription(_: int, body: dict[str, Any]) -> Reply:
    return Reply(body=json.dumps({"text": "", "segments": segments_of(body)}).encode())


def transcribe(config: SpeechConfig, *uris: str) -> list[Any]:
    """Return the results of the stage's worker."""
    rows = [{"speech": str(i), "uri": uri} for i, uri in enumerate(uris)]
    worker = SpeechWorker(config, Limits())
    results = worker(pa.Table.from_pylist(rows, PENDING_SPEECH).to_pylist())
    pa.Table.from_pylist([result for result in results if isinstance(result, dict)], SPEECH_SCHEMA)
    return results


def close(row: dict[str, Any], expected: Sequence[Spoken]) -> None:
    assert row["texts"] == [word for *_, word in expected]
    assert row["starts"] == pytest.approx([start for start, *_ in expected], abs=0.11)
    assert row["ends"] == pytest.approx([end for _, end, _ in expected], abs=0.11)


def test_words_have_the_times_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A film is longer than a piece; the sound of another begins late; the third has none to hear."""
    monkeypatch.setenv("HEARING_KEY", "secret")
    film = write_speaking(tmp_path / "film.mp4", 26.0, SPOKEN)
    late = write_speaking(tmp_path / "late.mkv", 16.0, SPOKEN[1:3], begin=8.0)
    silent = write_speaking(tmp_path / "silent.mp4", 12.0, [])
    with http_endpoint(transcription) as endpoint:
        config = SpeechConfig(
            url=endpoint.url,
            model="whisper",
            key_variable="HEARING_KEY",
            language="en",
            seconds=10,
            concurrency=2,
        )
        results = transcribe(config, film, late, silent)
    close(results[0], SPOKEN)
    close(results[1], SPOKEN[1:3])
    close(results[2], [])
    assert [(row["model"], row["faults"], row["speech"]) for row in results] == [
        ("whisper", [], number) for number in "012"
    ]
    assert {request["path"] for request in endpoint.requests} == {"/v1/audio/transcriptions"}
    assert {request["key"] for request in endpoint.requests} == {"Bearer secret"}
    (fields,) = {
        tuple(sorted((name, value) for name, value in request.items() if name not in ("file", "path", "key")))
        for request in endpoint.requests
    }
    assert dict(fields) == {
        "model": "whisper", "language": "en", "response_format": "verbose_json",
        "timestamp_granularities[]": "segment",
    }  # fmt: skip
    assert max(len(request["file"]) for request in endpoint.requests) <= 44 + 10 * 32_000


@pytest.mark.parametrize(
    "answer,expected",
    [
        ({"text": " Hello there. "}, [("Hello there.", 0.0, 3.0)]),
        ({"text": "  "}, []),
        (
            {
                "segments": [
                    {"start": 0, "end": 1, "text": "<b>one</b>"},
                    {"start": 1, "end": 900, "text": "two"},
                    {"start": 2, "end": 3, "text": "Thanks!", "no_speech_prob": 0.9, "avg_logprob": -1.5},
                    {"start": 2, "end": 3, "text": " "},
                ]
            },
            [("one", 0.0, 1.0), ("two", 1.0, 3.0)],
        ),
    ],
)
def test_forms_of_answers(
    tmp_path: Path, answer: dict[str, Any], expected: list[tuple[str, float, float]]
) -> None:
    path = write_speaking(tmp_path / "a.mp4", 3.0, [(0.5, 2.5, "island")])
    with http_endpoint(lambda *_: Reply(body=json.dumps(answer).encode())) as endpoint:
        (row,) = transcribe(SpeechConfig(url=endpoint.url, model="m"), path)
    assert row["texts"] == [text for text, *_ in expected]
    assert row["starts"] == pytest.approx([start for _, start, _ in expected], abs=0.05)
    assert row["ends"] == pytest.approx([end for *_, end in expected], abs=0.05)


def test_an_endpoint_that_fails_rejects_the_video_and_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gve_ray.endpoint._FIRST_PAUSE", 0.0)
    path = write_speaking(tmp_path / "a.mp4", 3.0, SPOKEN[:1])
    with http_endpoint(lambda *_: Reply(500, b"out of memory")) as endpoint:
        config = SpeechConfig(url=endpoint.url, model="m", concurrency=1)
        results = transcribe(config, path, path, path)
    assert all(isinstance(result, Reject) and result.reason == "not_transcribed" for result in results)
    assert "out of memory" in results[2].detail
    assert len(endpoint.requests) == 8  # the attempts for one video

    def refuse_the_first(number: int, body: dict[str, Any]) -> Reply:
        return Reply(413, b"too large") if number == 0 else transcription(number, body)

    with http_endpoint(refuse_the_first) as endpoint:
        refused, row = transcribe(SpeechConfig(url=endpoint.url, model="m", concurrency=1), path, path)
    assert isinstance(refused, Reject)
    assert "too large" in refused.detail
    close(row, SPOKEN[:1])


def test_what_cannot_be_read_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "frames").mkdir()
    with http_endpoint(transcription) as endpoint:
        config = SpeechConfig(url=endpoint.url, model="m")
        broken, folder = transcribe(config, str(tmp_path / "broken.mp4"), str(tmp_path / "frames"))
    assert (broken["texts"], len(broken["faults"])) == ([], 1)
    assert (folder["texts"], folder["faults"]) == ([], [])
    assert endpoint.requests == []


HEARING = """
import numpy as np


def transcribe(samples):
    assert samples.dtype == np.float32 and samples.ndim == 1 and np.abs(samples).max() <= 1
    loud = np.flatnonzero(np.abs(samples) > 0.1)
    yield loud[0] / 16000, (loud[-1] + 1) / 16000, "a tone"
"""


def test_a_function_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_hearing.py").write_text(HEARING)
    monkeypatch.chdir(tmp_path)
    path = write_speaking(tmp_path / "a.mp4", 3.0, [(1.0, 2.0, "island")])
    (row,) = transcribe(SpeechConfig(function="my_hearing:transcribe"), path)
    close(row, [(1.0, 2.0, "a tone")])
    assert row["model"] == "my_hearing:transcribe"


def config_with(tmp_path: Path, **speech: Any) -> IndexConfig:
    words = WordsConfig(speech=SpeechConfig(**speech))
    model = ModelConfig(
        name="m", model="package://demo/tiny_vl/model", adapter="package://demo/tiny_vl/adapter"
    )
    settings = {"frames": 8, "max_pixels": 12544, "min_pixels": 3136}
    return IndexConfig(
        input=str(tmp_path), output=str(tmp_path / "out"), model=model, words=words, **settings
    )


@pytest.mark.parametrize(
    "options,message",
    [
        ({"url": "http://a/v1"}, "words.speech.model=''"),
        ({"url": "http://a:b@c/v1", "model": "m"}, r"words.speech.url='http://\*\*\*@c/v1'"),
        ({"url": "http://a/v1", "model": "m", "function": "a:b"}, "give one of them"),
        ({"function": "transcribe"}, "words.speech.function='transcribe': name a function"),
        ({"function": "a:b", "model": "m"}, "words.speech.model='m'"),
        ({"seconds": 1000}, "words.speech.seconds=1000: 25 MB"),
    ],
)
def test_bad_configs(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpeechConfig(**options)


def test_an_endpoint_or_a_function_that_is_not_there_is_found_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(PreflightError, match=r"words\.speech\.function='nowhere:f': cannot be used"):
        check_request(needs_of(config_with(tmp_path, function="nowhere:f")))
    with pytest.raises(PreflightError, match=r"words\.speech\.url='http://127\.0\.0\.1:1/v1'"):
        check_request(needs_of(config_with(tmp_path, url="http://127.0.0.1:1/v1", model="m")))


def test_another_model_or_language_transcribes_again() -> None:
    first = SpeechConfig(url="http://a/v1", model="m")
    versions = [
        speech_version("1", first),
        speech_version("2", first),
        speech_version("1", SpeechConfig(url="http://a/v1", model="n")),
        speech_version("1", SpeechConfig(url="http://a/v1", model="m", language="de")),
    ]
    assert len(set(versions)) == 4
    assert speech_version("1", SpeechConfig(url="http://moved/v1", model="m", subtitled=True)) == versions[0]

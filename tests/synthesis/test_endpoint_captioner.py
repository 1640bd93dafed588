"""The captioner behind an endpoint: what it sends, and what it makes of each kind of failure."""

import base64
import json
from pathlib import Path

import pytest

from gve_ray.synthesis.captioner import Asker, Sampling
from gve_ray.synthesis.config import CaptionerConfig, ExtendConfig
from gve_ray.synthesis.endpoint_captioner import EndpointGenerator
from gve_ray.synthesis.questions import caption_question, query_questions
from gve_ray.synthesis.spending import FileLedger, Usage
from tests.chat_endpoint import chat_endpoint, completion
from tests.synthesis.scripted import CAPTIONS, asset_row

SAMPLING = Sampling(seed=7, temperature=0.5, top_p=0.9, max_tokens=64)


def generator(url: str, folder: Path, **changes) -> EndpointGenerator:
    config = CaptionerConfig(model="m", engine="openai", url=url, **changes)
    return EndpointGenerator(config, ledger=FileLedger(str(folder)))


def test_a_question_is_asked_with_the_stored_frames_and_their_times(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    row = asset_row("v")
    with chat_endpoint(lambda number, body: completion(json.dumps(CAPTIONS))) as endpoint:
        asked = generator(endpoint.url, tmp_path, key_variable="MY_KEY")
        asker = Asker(generator=asked, config=CaptionerConfig(model="m"), seed=1)
        answer = asker.ask(caption_question(row, 1)).result()
    assert answer.texts == CAPTIONS
    (request,) = endpoint.requests
    assert (request["path"], request["key"], request["model"]) == (
        "/v1/chat/completions",
        "Bearer secret",
        "m",
    )
    assert (request["temperature"], request["top_p"], request["max_tokens"]) == (0.7, 0.9, 1024)
    assert request["seed"] == answer.seed
    system, user = request["messages"]
    assert "five" in system["content"] or "captions" in system["content"]
    video, text = user["content"]
    head, *frames = video["video_url"]["url"].split(",")
    assert head == "data:video/jpeg;base64"
    assert [base64.b64decode(frame) for frame in frames] == row["frames"]
    options = request["media_io_kwargs"]["video"]
    assert (options["fps"], options["frames_indices"]) == (12.0, row["indices"])
    assert "a red circle" in text["text"]
    schema = request["response_format"]["json_schema"]["schema"]
    assert schema["required"] == list(CAPTIONS)

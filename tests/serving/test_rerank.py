"""Reranking: a real endpoint judges the pictures of hits, and misbehaves in every way that is known."""

import asyncio
import base64
import io
import json
import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pytest
import uvicorn
from fastapi import FastAPI
from PIL import Image

from gve_ray.config import ModelConfig
from gve_ray.demo.render import RGB, frames
from gve_ray.demo.scenes import Scene, draw_scene
from gve_ray.embedder.backends import identify, open_model, saved_settings
from gve_ray.media import encode_jpeg
from gve_ray.schema import Frames, Item
from gve_ray.search import IndexOptions, IndexSpec, LibraryFacts, Moment, Pictures, Quote, create_index
from gve_ray.search.library import FIELDS, SEGMENT_SCHEMA, segment_store
from gve_ray.serving.app import HttpGateway, build_app
from gve_ray.serving.config import RerankConfig, ServeConfig
from gve_ray.serving.metrics import Metrics
from gve_ray.serving.requests import Query, SearchRequest
from gve_ray.serving.rerank import Reranker, Reranking
from gve_ray.serving.retriever import Retriever
from gve_ray.serving.search_reply import search_reply
from tests.endpoint import Answer, Reply, completion, http_endpoint
from tests.serving.conftest import wait_until

pytestmark = pytest.mark.timeout(600)
TEXT = Query(text="a light picture")
GRAYS = (40, 200, 120, 80, 240)  # of the pictures of the hits "0" to "4"
HITS = [Moment(id=str(i), score=1 - i / 10, metadata={}, extent=(0.0, 1.0)) for i in range(len(GRAYS))]


def rerank(answer: Answer, query: Query = TEXT, hits: Sequence[Moment] = HITS, **options: Any) -> Any:
    """Rerank gray pictures with an endpoint, and return the result and its requests."""

    async def pictures(segment: str) -> Pictures:
        gray = np.full((32, 48, 3), GRAYS[int(segment)], np.uint8)
        return Pictures(poster=encode_jpeg(gray), strip=encode_jpeg(np.tile(gray, (1, 4, 1))))

    async def work(config: RerankConfig) -> Reranking:
        reranker = Reranker(config)
        try:
            return await reranker.rerank(query, hits, pictures, seconds=60.0)
        finally:
            reranker.close()

    with http_endpoint(answer) as endpoint:
        config = RerankConfig(url=endpoint.url, model="judge", **{"seconds": 60.0, **options})
        return asyncio.run(work(config)), endpoint.requests


def ids(reranking: Reranking) -> str:
    return "".join(hit.id for hit in reranking.hits)


def seen(body: Mapping[str, Any]) -> list[np.ndarray]:
    """Return the pictures in a request."""
    content = body["messages"][0]["content"] if "messages" in body else body["documents"][0]["content"]
    urls = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
    data = (base64.b64decode(url.removeprefix("data:image/jpeg;base64,")) for url in urls)
    return [np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB")) for jpeg in data]


def gray(body: Mapping[str, Any]) -> int:
    """Return which of GRAYS a request shows."""
    return min(GRAYS, key=lambda gray: abs(gray - seen(body)[0].mean()))


def with_logprobs(text: str, likely: Mapping[str, float], *, before: Sequence[str] = ()) -> Reply:
    """Return a chat completion whose last token has these probabilities."""
    tokens = [{"token": token, "logprob": 0.0, "top_logprobs": []} for token in before]
    top = [{"token": token, "logprob": math.log(p)} for token, p in likely.items()]
    tokens.append({"token": text, "logprob": math.log(likely.get(text, 0.3)), "top_logprobs": top})
    choice = {"message": {"content": "".join([*before, text])}, "logprobs": {"content": tokens}}
    return Reply(body=json.dumps({"choices": [choice]}).encode())


def test_hits_are_sorted_by_the_likelihood_of_yes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "secret")
    likely = {
        40: {"Yes": 0.1, "No": 0.6, " no": 0.2, "Maybe": 0.1},
        200: {"yes": 0.4, "Yes": 0.3, "No": 0.3},
        120: {"No": 0.45, "Yes": 0.5},
        80: {"No": 1.0},
        240: {"Yes": 0.19, "yes": 0.79, "No": 0.02},
    }
    reranking, requests = rerank(
        lambda _, body: with_logprobs(max(p := likely[gray(body)], key=p.__getitem__), p, before=["\n"]),
        replace(TEXT, instruction="Find bright ones."),
        key_variable="JUDGE_KEY",
    )
    assert ids(reranking) == "41203"
    assert reranking.scores == pytest.approx({"0": 1 / 9, "1": 0.7, "2": 50 / 95, "3": 0.0, "4": 0.98})
    assert reranking.ranks == {"0": 1, "1": 2, "2": 3, "3": 4, "4": 5}
    assert (reranking.candidates, reranking.problem) == (5, None)
    body = requests[0]
    assert (body["path"], body["model"], body["key"]) == ("/v1/chat/completions", "judge", "Bearer secret")
    assert [picture.shape for picture in seen(body)] == [(32, 48, 3), (32, 192, 3)]
    question = body["messages"][0]["content"][-1]["text"]
    assert "Find bright ones." in question
    assert "a light picture" in question


def test_without_logprobs_the_answer_counts() -> None:
    """Equal hits keep their order. An endpoint that refuses logprobs is asked without them."""

    def answer(_: int, body: dict[str, Any]) -> Reply:
        if "logprobs" in body:
            return Reply(400, b"unknown field: logprobs")
        return completion("**Yes**, it is." if gray(body) > 100 else "No.")

    quoted = Quote(source="speech", text="so bright", marks=[])
    hits = [HITS[0], replace(HITS[1], words=quoted), *HITS[2:]]
    reranking, requests = rerank(answer, hits=hits, concurrency=1)
    assert ids(reranking) == "12403"
    assert reranking.scores == {"0": 0, "1": 1, "2": 1, "3": 0, "4": 1}
    assert reranking.problem is None
    assert ["logprobs" in body for body in requests] == [True, *[False] * 5]
    assert ["so bright" in json.dumps(body) for body in requests] == [False, False, True, False, False, False]


def test_a_reranker_of_vllm() -> None:
    def answer(_: int, body: dict[str, Any]) -> Reply:
        result = {"index": 0, "relevance_score": gray(body) / 255, "document": {}}
        return Reply(body=json.dumps({"results": [result]}).encode())

    reranking, requests = rerank(answer, api="rerank")
    assert ids(reranking) == "41230"
    assert reranking.scores == pytest.approx({str(i): gray / 255 for i, gray in enumerate(GRAYS)})
    assert {(body["path"], body["query"]) for body in requests} == {("/v1/rerank", TEXT.text)}


def test_only_the_candidates_are_judged() -> None:
    reranking, _ = rerank(lambda _, body: completion("Yes" if gray(body) > 100 else "No"), candidates=3)
    assert ids(reranking) == "12034"
    assert (set(reranking.scores), reranking.candidates) == (set("012"), 3)
    reranking, _ = rerank(lambda *_: completion("Yes"), hits=[])
    assert (ids(reranking), reranking.candidates, reranking.problem) == ("", 0, None)


@pytest.mark.parametrize(
    "reply",
    [
        Reply(429),
        Reply(429, headers={"Retry-After": "100000"}),
        Reply(500, b"out of memory"),
        Reply(401, b"no such key"),
        Reply(400, b"no pictures here"),
        Reply(0),
        Reply(body=b"<html>"),
        Reply(body=b'{"choices": []}'),
        Reply(body=b'{"choices": [{"message": {"content": null}}]}'),
        completion("I cannot say."),
        with_logprobs("Perhaps", {"Perhaps": 0.9, "Yes": 0.1}),
        Reply(body=b'{"choices": [{"logprobs": {"content": [{"token": "Yes"}]}}]}'),
    ],
)
def test_a_bad_endpoint_changes_nothing(reply: Reply, caplog: pytest.LogCaptureFixture) -> None:
    reranking, requests = rerank(lambda *_: reply, concurrency=1)
    assert (ids(reranking), dict(reranking.scores)) == ("01234", {})
    assert (reranking.candidates, reranking.problem) == (
        5,
        "the reranker failed; the log of the service says why",
    )
    # Only if it refuses requests one by one is it asked about the other hits.
    assert len(requests) <= 2 or reply.status == 400
    assert "0 of 5 hits judged" in caplog.text


@pytest.mark.parametrize("reply", [Reply(400, b"too large"), Reply(500), completion("Hm?")])
def test_a_hit_that_is_not_judged_keeps_its_place(reply: Reply) -> None:
    reranking, _ = rerank(
        lambda number, body: (
            reply if gray(body) == 80 else with_logprobs("Yes", {"Yes": gray(body) / 255, "No": 0.1})
        ),
        concurrency=1,
    )
    assert ids(reranking) == "41230"
    assert set(reranking.scores) == set("0124")
    assert reranking.problem == "the reranker failed; the log of the service says why"


def test_a_slow_endpoint_is_not_waited_for() -> None:
    """Hits that are not judged in time keep their places; how many are depends on the machine."""
    released = threading.Event()

    def answer(_: int, body: dict[str, Any]) -> Reply:
        if gray(body) in (40, 120):
            released.wait(60)
            return Reply(0)  # nobody waits for it any more
        return completion("Yes" if gray(body) > 100 else "No")

    try:
        reranking, _ = rerank(answer, seconds=1.0)
    finally:
        released.set()
    assert not {"0", "2"} & set(reranking.scores)
    assert (ids(reranking)[0], ids(reranking)[2]) == ("0", "2")
    assert reranking.problem == "the time for it was over after 1 s"
    if len(reranking.scores) == 3:
        assert ids(reranking) == "01243"


def test_what_the_model_confirms_is_confident() -> None:
    """Neither does a no make a hit weak, nor is there confidence where the index has none."""
    metadata = {"uri": "a.mp4", "start": 0.0, "end": 1.0}
    hits = [
        Moment(id=str(i), score=0.5, metadata=metadata, extent=(0, 1), confidence=confidence)
        for i, confidence in enumerate((0.2, 0.95, 0.2, None, 0.2))
    ]
    reranking = Reranking(
        hits=hits,
        ranks={str(i): 5 - i for i in range(5)},
        scores={"0": 0.5, "1": 0.1, "2": 0.49, "3": 0.9},
        candidates=5,
        problem="late",
    )
    reply = search_reply("m", hits, SearchRequest(content="a"), reranking)
    assert [hit["confident"] for hit in reply["data"]] == [True, True, False, None, False]
    assert [hit["rank_before"] for hit in reply["data"]] == [5, 4, 3, 2, 1]
    assert [hit["rerank_score"] for hit in reply["data"]] == [0.5, 0.1, 0.49, 0.9, None]
    assert reply["rerank"] == {"candidates": 5, "judged": 4, "problem": "late"}


# ---- The service


FILMS, CANDIDATES = 40, 30
PACKAGE = "package://demo/tiny_vl"


class Judge:
    """The model behind the reranker of the service: says no to everything, unless a test says otherwise."""

    def __init__(self) -> None:
        self.answer: Answer = lambda *_: completion("No")


@dataclass(frozen=True, kw_only=True)
class Reranked:
    """A service in this process. colours: those that each film has, by its URI. judge, requests: its reranker."""

    http: httpx.Client
    colours: Mapping[str, set[str]]
    judge: Judge
    requests: Sequence[Mapping[str, Any]]


class LocalHandle:
    """A retriever in this process, called like a handle of Ray Serve."""

    def __init__(self, retriever: Retriever) -> None:
        self._retriever = retriever

    def __getattr__(self, name: str) -> SimpleNamespace:
        method = getattr(self._retriever, name)
        return SimpleNamespace(remote=lambda *args, **kwargs: asyncio.ensure_future(method(*args, **kwargs)))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reranked]:
    folder = tmp_path_factory.mktemp("library")
    scenes = [draw_scene(seed, "heldout", long=False) for seed in range(FILMS)]
    write_library(folder, scenes)
    judge = Judge()
    with http_endpoint(lambda number, body: judge.answer(number, body)) as endpoint:
        rerank = RerankConfig(url=endpoint.url, model="judge", candidates=CANDIDATES, seconds=60.0)
        config = ServeConfig(index=str(folder), rerank=rerank)
        gateway = HttpGateway(config, None, LocalHandle(Retriever(config.models[0])))
        with (
            served(build_app(gateway)) as url,
            httpx.Client(base_url=url, timeout=60, trust_env=False) as http,
        ):
            colours = {
                f"/{i}.mp4": {thing.colour for chapter in scene.chapters for thing in chapter.things}
                for i, scene in enumerate(scenes)
            }
            yield Reranked(http=http, colours=colours, judge=judge, requests=endpoint.requests)
        gateway.__del__()


def write_library(folder: Path, scenes: Sequence[Scene]) -> None:
    """Do what an index job does with whole films."""
    model = ModelConfig(name="tiny", model=f"{PACKAGE}/model", adapter=f"{PACKAGE}/adapter")
    settings = saved_settings(model)
    identity = identify(model, settings, on_gpu=False)
    seen = [
        np.stack(list(frames(scene, np.linspace(0, 1, settings.frames).tolist(), 112, 112)))
        for scene in scenes
    ]
    backend = open_model(model, settings, identity)
    vectors = backend.embed(
        [Item(video=frames_of(pixels, scene)) for pixels, scene in zip(seen, scenes, strict=True)]
    ).vectors
    backend.close()
    rows = [
        {
            "segment": str(i), "vector": vector.tolist(), "poster": encode_jpeg(pixels[4]),
            "strip": encode_jpeg(np.concatenate(list(pixels[::2]), axis=1)),
        }
        for i, (vector, pixels) in enumerate(zip(vectors, seen, strict=True))
    ]  # fmt: skip
    segment_store(folder).create().append(pa.Table.from_pylist(rows, schema=SEGMENT_SCHEMA))
    spec = IndexSpec(dimension=vectors.shape[1], fields=dict(FIELDS))
    index = create_index(folder / "index", spec, IndexOptions())
    index.add(
        [str(i) for i in range(len(scenes))],
        vectors,
        [
            {
                **dict.fromkeys(FIELDS), "video_id": str(i), "uri": f"/{i}.mp4", "segment": 0, "start": 0.0,
                "end": scene.duration, "duration": scene.duration, "fingerprint": str(i),
            }
            for i, scene in enumerate(scenes)
        ],
    )  # fmt: skip
    index.save()
    facts = LibraryFacts(
        generation=1, index="index", model=asdict(model), settings=asdict(settings), identity=identity,
        strip_frames=4,
    )  # fmt: skip
    (folder / "library.json").write_text(json.dumps(asdict(facts)))


def frames_of(pixels: np.ndarray, scene: Scene) -> Frames:
    count = len(pixels)
    return Frames(
        pixels=pixels, timestamps=np.linspace(0, scene.duration, count), indices=np.arange(count), fps=scene.fps,
        duration=scene.duration, total_frames=count,
    )  # fmt: skip


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def answering(service: Reranked) -> Iterator[Callable[[Answer], None]]:
    """Return a function that lets the reranker answer otherwise until the end of the test."""
    before = service.judge.answer

    def answer(otherwise: Answer) -> None:
        service.judge.answer = otherwise

    yield answer
    service.judge.answer = before


def shows(colour: str, body: Mapping[str, Any]) -> bool:
    """Whether the frames in a request show an object of a color: by the distance of pixels to it."""
    away = np.linalg.norm(seen(body)[1] - np.array(RGB[colour], np.float64), axis=2)
    return bool((away < 40).mean() > 0.004)


def test_precision_rises_if_the_model_sees_what_is_there(
    service: Reranked, answering: Callable[[Answer], None]
) -> None:
    """The endpoint looks for both colors in the question; the truth is what was rendered."""

    def answer(_: int, body: dict[str, Any]) -> Reply:
        colours = re.findall(r"a (\w+) object", body["messages"][0]["content"][-1]["text"])
        assert len(colours) == 2
        return completion("Yes" if all(shows(colour, body) for colour in colours) else "No")

    answering(answer)
    before, after = [], []
    for pair in combinations(("red", "orange", "yellow", "green", "blue", "purple", "pink"), 2):
        right = {uri for uri, colours in service.colours.items() if colours >= set(pair)}
        if len(right) < 2:
            continue
        query = {"content": "a {} object and a {} object".format(*pair), "top_k": len(right)}
        everything = {**query, "rerank": False, "top_k": CANDIDATES}
        plain = service.http.post("/v1/search", json=everything).json()
        assert plain["rerank"] is None
        assert {(hit["rank_before"], hit["rerank_score"]) for hit in plain["data"]} == {(None, None)}
        reply = service.http.post("/v1/search", json=query).json()
        assert reply["rerank"] == {"candidates": CANDIDATES, "judged": CANDIDATES, "problem": None}
        for hit in reply["data"]:
            assert plain["data"][hit["rank_before"] - 1]["id"] == hit["id"]
        for hits, precision in ((plain["data"][: len(right)], before), (reply["data"], after)):
            precision.append(len(right & {hit["uri"] for hit in hits}) / len(right))
    print(f"R-precision of {len(before)} queries: {np.mean(before):.2f}, reranked {np.mean(after):.2f}")
    assert len(before) >= 5
    assert np.mean(after) >= 0.95
    assert np.mean(after) > np.mean(before) + 0.1


def test_a_failing_reranker_fails_no_search(
    service: Reranked, answering: Callable[[Answer], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    counted: list[tuple[int, int]] = []
    monkeypatch.setattr(Metrics, "reranked", lambda _, *counts: counted.append(counts))
    query = {"content": "a red ball", "top_k": 5}
    plain = service.http.post("/v1/search", json={**query, "rerank": False}).json()["data"]
    answering(lambda *_: Reply(500, b"the key is 123"))
    answer = service.http.post("/v1/search", json=query)
    assert answer.status_code == 200
    reply = answer.json()
    assert [hit["id"] for hit in reply["data"]] == [hit["id"] for hit in plain]
    problem = "the reranker failed; the log of the service says why"
    assert reply["rerank"] == {"candidates": CANDIDATES, "judged": 0, "problem": problem}
    assert counted == [(0, CANDIDATES)]


def test_only_texts_alone_are_reranked(service: Reranked) -> None:
    picture = (
        f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(np.zeros((64, 64, 3), np.uint8))).decode()}"
    )
    image = {"type": "image_url", "image_url": {"url": picture}}
    asked = len(service.requests)
    for query in (
        {"content": [image]},
        {"content": [image, {"type": "text", "text": "in red"}]},
        {"like": "0"},
        {"content": "a ball", "like": "0"},
        {"content": "a ball", "without": "a ring"},
        {"content": "a ball", "rerank": False},
    ):
        reply = service.http.post("/v1/search", json=query).json()
        assert (reply["rerank"], len(reply["data"])) == (None, 10)
    form = {"text": (None, "a ball"), "rerank": (None, "False")}
    assert service.http.post("/v1/search", files=form).json()["rerank"] is None
    assert len(service.requests) == asked


def test_other_requests_do_not_wait_for_the_reranker(
    service: Reranked, answering: Callable[[Answer], None]
) -> None:
    arrived, released = threading.Event(), threading.Event()

    def answer(*_: object) -> Reply:
        arrived.set()
        released.wait(60)
        return completion("No")

    answering(answer)
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(service.http.post, "/v1/search", json={"content": "a ball"})
        try:
            assert arrived.wait(60)
            plain = service.http.post("/v1/search", json={"content": "a ball", "rerank": False}).json()
            assert len(plain["data"]) == 10
            assert service.http.get(plain["data"][0]["links"]["poster"]).status_code == 200
            assert not search.done()
        finally:
            released.set()
        assert search.result().json()["rerank"]["judged"] == CANDIDATES

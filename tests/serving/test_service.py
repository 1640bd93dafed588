"""The whole service over HTTP: embeddings, search, common clients, media files and metrics."""

import base64
import csv
import io
import json
import re
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from gve_ray.config import resolve_model
from gve_ray.demo.render import encode_mp4
from gve_ray.embedder import Embedder
from gve_ray.media import decode_jpeg, read_frames
from gve_ray.schema import Item
from gve_ray.search import open_library
from tests.serving.conftest import VIDEOS, Service, wait_until

pytestmark = pytest.mark.timeout(600)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def http(server: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


@pytest.fixture(scope="module")
def embedder() -> Embedder:
    return Embedder.from_pretrained(
        resolve_model("package://demo/tiny_vl/model"), resolve_model("package://demo/tiny_vl/adapter")
    )


@pytest.fixture(scope="module")
def files(server: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return an image and a clip of the fourth video, as a client would send them."""
    frames = read_frames(server.heldout.videos[3], k=16, max_pixels=10**6)
    picture, clip = io.BytesIO(), tmp_path_factory.mktemp("clip") / "clip.mp4"
    Image.fromarray(frames.pixels[7]).save(picture, "PNG")
    height, width = frames.pixels.shape[1:3]
    encode_mp4(clip, frames.pixels, fps=8, width=width, height=height)
    return {"image": picture.getvalue(), "video": clip.read_bytes()}


def data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def part(name: str, data: bytes) -> dict[str, Any]:
    url = data_url({"image": "image/png", "video": "video/mp4"}[name], data)
    return {"type": f"{name}_url", f"{name}_url": {"url": url}}


def test_vectors_equal_those_of_the_batch_embedder(
    http: httpx.Client, files: dict[str, bytes], embedder: Embedder, tmp_path: Path
) -> None:
    """This holds for each kind of item, with and without an instruction."""
    paths = {}
    for name, suffix in (("image", "png"), ("video", "mp4")):
        paths[name] = str(tmp_path / f"a.{suffix}")
        Path(paths[name]).write_bytes(files[name])
    text = "a red ball rolls to the left"
    system = {"role": "system", "content": "Find the video."}
    for slots in ((), ("image",), ("video",), ("image", "video")):
        for words in (text, None):
            if not slots and not words:
                continue
            content = [part(name, files[name]) for name in slots]
            content += [{"type": "text", "text": words}] if words else []
            body = {"messages": [system, {"role": "user", "content": content}]}
            answer = http.post("/v1/embeddings", json=body)
            assert answer.status_code == 200, answer.text
            vector = np.array(answer.json()["data"][0]["embedding"], dtype=np.float32)
            item = Item(text=words, instruction="Find the video.", **{name: paths[name] for name in slots})
            expected = embedder.encode([item])
            assert float(vector @ expected.vectors[0]) >= 0.9999, (slots, words)
            assert answer.json()["usage"]["prompt_tokens"] == int(expected.tokens[0])


def test_the_openai_client(server: Service, embedder: Embedder) -> None:
    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    texts = ["a red ball", "two squares that move apart, slowly", "x"]
    expected = embedder.encode([Item(text=text) for text in texts])
    for encoding in ("base64", "float", None):
        more = {"encoding_format": encoding} if encoding else {}
        answer = client.embeddings.create(model="demo", input=texts, **more)
        embeddings = [row.embedding for row in answer.data]
        if encoding == "base64":  # the client decodes base64 only if it has chosen it itself
            embeddings = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in embeddings]
        vectors = np.array(embeddings, dtype=np.float32)
        assert (vectors * expected.vectors).sum(axis=1).min() >= 0.9999
        assert [row.index for row in answer.data] == [0, 1, 2]
        assert answer.usage.total_tokens == int(expected.tokens.sum())
    assert client.embeddings.create(model="demo", input="alone").data[0].index == 0
    (model,) = client.models.list().data
    assert (model.id, model.index["segments"]) == ("demo", VIDEOS)
    with pytest.raises(openai.NotFoundError, match="'gpt': not served here; use demo"):
        client.embeddings.create(model="gpt", input="a")
    with pytest.raises(openai.BadRequestError, match="trained for these: none"):
        client.embeddings.create(model="demo", input="a", dimensions=64)
    with pytest.raises(openai.BadRequestError, match=r"input\[1\] is empty"):
        client.embeddings.create(model="demo", input=["a", ""])
    with pytest.raises(openai.BadRequestError, match="2049 texts; the limit is 2048"):
        client.embeddings.create(model="demo", input=["a"] * 2049)


def test_an_empty_assistant_turn_changes_nothing(http: httpx.Client, embedder: Embedder) -> None:
    """These are the messages of the vLLM example for Qwen3-VL-Embedding."""
    messages = [
        {"role": "system", "content": [{"type": "text", "text": "Find the video."}]},
        {"role": "user", "content": [{"type": "text", "text": "a red ball"}]},
        {"role": "assistant", "content": [{"type": "text", "text": ""}]},
    ]
    body = {"messages": messages, "continue_final_message": True, "add_special_tokens": True}
    answer = http.post("/v1/embeddings", json=body)
    assert answer.status_code == 200, answer.text
    expected = embedder.encode([Item(text="a red ball", instruction="Find the video.")])
    vector = np.array(answer.json()["data"][0]["embedding"], dtype=np.float32)
    assert float(vector @ expected.vectors[0]) >= 0.9999


def test_a_query_that_repeats_gets_the_same_answer_without_the_model(http: httpx.Client) -> None:
    def lookups(result: str) -> float:
        pattern = rf'(?m)^ray_gve_model_lookups_total{{.*result="{result}".*}} (\S+)'
        return sum(float(value) for value in re.findall(pattern, http.get("/metrics").text))

    hits = lookups("hit")
    bodies = [{"input": "a red ball that nobody has asked for", "encoding_format": "base64"}] * 3
    answers = [http.post("/v1/embeddings", json=body).json() for body in bodies]
    assert answers[0] == answers[1] == answers[2]
    search = {"content": "a red ball that nobody has asked for", "top_k": 3}
    found = [http.post("/v1/search", json=search).json() for _ in range(2)]
    assert found[0] == found[1]
    wait_until(lambda: lookups("hit") >= hits + 4)  # the agents publish every few seconds
    assert lookups("miss") >= 1


@pytest.mark.slow  # test_faults.py has such a text, too
def test_a_text_above_the_limit_is_refused_after_it_was_truncated(http: httpx.Client) -> None:
    body = {"input": "ball " * 20_000}
    answers = [
        http.post("/v1/embeddings", json=body | {"truncate_prompt_tokens": -1}),
        http.post("/v1/embeddings", json=body),
    ]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert answers[1].json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.slow
def test_a_thousand_texts_in_one_call(server: Service, embedder: Embedder) -> None:
    """This is the default batch of LangChain. LiteLLM adds a null field."""
    texts = [f"ball {i}" for i in range(1000)]
    body = {"model": "demo", "input": texts, "encoding_format": None, "user": None}
    answer = httpx.post(f"{server.url}/v1/embeddings", json=body, timeout=60, trust_env=False)
    assert answer.status_code == 200, answer.text
    vectors = np.array([row["embedding"] for row in answer.json()["data"]], dtype=np.float32)
    expected = embedder.encode([Item(text=text) for text in (texts[0], texts[999])])
    assert (vectors[[0, 999]] * expected.vectors).sum(axis=1).min() >= 0.9999
    assert len(vectors) == 1000


def test_the_right_video_is_found(http: httpx.Client, server: Service, files: dict[str, bytes]) -> None:
    first = {}
    for name, content in {
        "text": server.heldout.queries["fine"][3].text,
        "image": [part("image", files["image"])],
        "video": [part("video", files["video"])],
        "composed": [part("image", files["image"]), {"type": "text", "text": "the same, as it moves"}],
    }.items():
        answer = http.post("/v1/search", json={"content": content, "top_k": 5})
        assert answer.status_code == 200, answer.text
        hits = answer.json()["data"]
        assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
        assert len(hits) == 5
        first[name] = hits[0]["uri"]
    assert first == dict.fromkeys(first, server.heldout.videos[3])


def test_filters_and_more_like_this(http: httpx.Client) -> None:
    hits = http.post("/v1/search", json={"content": "anything", "top_k": 100}).json()["data"]
    assert len(hits) == VIDEOS
    some = sorted(hits, key=lambda hit: hit["metadata"]["duration"])[3]["metadata"]["duration"]
    filtered = http.post(
        "/v1/search", json={"content": "anything", "top_k": 100, "filter": {"duration": {"lte": some}}}
    )
    expected = [hit["id"] for hit in hits if hit["metadata"]["duration"] <= some]
    assert [hit["id"] for hit in filtered.json()["data"]] == expected
    like = http.post("/v1/search", json={"like": hits[0]["id"], "top_k": 100}).json()["data"]
    assert {hit["id"] for hit in like} == {hit["id"] for hit in hits[1:]}
    answer = http.post("/v1/search", json={"content": "a", "filter": {"lenght": 1}})
    assert answer.status_code == 400
    assert "'lenght': no such field; there are caption, duration" in answer.json()["error"]["message"]
    answer = http.post("/v1/search", json={"like": "0" * 24})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_segment")


def test_a_query_of_several_parts(http: httpx.Client, server: Service, embedder: Embedder) -> None:
    hits = http.post("/v1/search", json={"content": "anything", "top_k": 100}).json()["data"]
    like = [hit["id"] for hit in hits[:2]]
    others = [hit["id"] for hit in hits[2:]]
    index = open_library(server.index).index
    (first, second), rows = index.get(like)[0], index.get(others)[0]
    wanted, unwanted = embedder.embed([Item(text="a red ball"), Item(text="a blue ball")])
    mean = (first + second) / np.linalg.norm(first + second)
    query = wanted + mean - 0.5 * unwanted
    expected = dict(zip(others, rows @ query / np.linalg.norm(query), strict=True))
    body = {"content": "a red ball", "like": like, "without": "a blue ball", "top_k": 100}
    found = http.post("/v1/search", json=body).json()["data"]
    assert {hit["id"]: hit["score"] for hit in found} == pytest.approx(expected, abs=1e-4)
    parts = [
        ("text", "a red ball"),
        *(("like", id) for id in like),
        ("without", "a blue ball"),
        ("top_k", "100"),
    ]
    form = http.post("/v1/search", files=[(name, (None, value)) for name, value in parts])
    assert form.json()["data"] == found


def test_curl_with_a_file(server: Service, files: dict[str, bytes], tmp_path: Path) -> None:
    picture = tmp_path / "still.png"
    picture.write_bytes(files["image"])
    command = ["curl", "--silent", "--noproxy", "*", f"{server.url}/v1/search", "-F", f"image=@{picture}"]
    command += ["-F", "top_k=2", "-F", 'filter={"segment": 0}', "-F", "text=as it moves"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    hits = json.loads(done.stdout)["data"]
    assert [hits[0]["uri"], len(hits)] == [server.heldout.videos[3], 2]


def test_gve_search(server: Service, files: dict[str, bytes], tmp_path: Path) -> None:
    from tests.serving.conftest import gve

    clip = tmp_path / "clip.mp4"
    clip.write_bytes(files["video"])
    command = gve("search", "--video", str(clip), "--url", server.url, "--top_k", "3")
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[-1] == server.heldout.videos[3]
    saved = tmp_path / "moment.mp4"
    table = subprocess.run(
        [*command, "--csv", "--save", "1", str(saved)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    film = read_frames(server.heldout.videos[3], k=4)
    assert (read_frames(saved, k=4).pixels == film.pixels).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clip.mp4", "moment.mp4"]
    assert next(csv.DictReader(io.StringIO(table.stdout)))["uri"] == server.heldout.videos[3]
    (best,) = json.loads(
        subprocess.run(
            [*command[:-1], "1", "--json"], capture_output=True, text=True, timeout=120, check=True
        ).stdout
    )
    parts = gve(
        "search", "a", "ball", "--like", best["id"], "--without", "a ring", "--url", server.url, "--json"
    )
    done = subprocess.run(parts, capture_output=True, text=True, timeout=120, check=True)
    assert best["id"] not in {hit["id"] for hit in json.loads(done.stdout)}
    uri = server.heldout.videos[5]
    narrow = [*command, "--only", uri, "--before", "1:00:00", "--min_confidence", "0"]
    done = subprocess.run(narrow, capture_output=True, text=True, timeout=120, check=True)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [uri]
    wrong = subprocess.run([*command, "--filter", '{"a": 1}'], capture_output=True, text=True, timeout=120)
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert "HTTP 400: filter 'a': no such field" in wrong.stderr


def test_videos_and_previews_of_indexed_segments(http: httpx.Client) -> None:
    hit = http.post("/v1/search", json={"content": "anything"}).json()["data"][0]
    whole = Path(hit["uri"]).read_bytes()
    link = hit["links"]["video"].partition("#")[0]
    answer = http.get(link)
    assert (answer.status_code, answer.content) == (200, whole)
    assert answer.headers["content-type"] == "video/mp4"
    answer = http.get(link, headers={"Range": "bytes=100-199"})
    assert (answer.status_code, answer.content) == (206, whole[100:200])
    assert answer.headers["content-range"] == f"bytes 100-199/{len(whole)}"
    assert http.get(link, headers={"Range": f"bytes={len(whole)}-"}).status_code == 416
    moment = http.get(hit["links"]["moment"])
    assert (moment.status_code, moment.headers["content-type"]) == (200, "video/mp4")
    times = [float(moment.headers[f"x-moment-{name}"]) for name in ("start", "end")]
    assert times == pytest.approx([hit["start"], hit["end"]], abs=0.001)  # the whole film
    shown = read_frames(moment.content, k=4)
    assert (shown.pixels == read_frames(hit["uri"], k=4).pixels).all()
    part = http.get(hit["links"]["moment"], headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, moment.content[5:10])
    assert http.get("/moments/demo/none.mp4").status_code == 404
    known = http.get(f"/v1/moments/demo/{hit['id']}").json()
    assert known == {"object": "moment", **{name: hit[name] for name in known if name != "object"}}
    poster, strip = (decode_jpeg(http.get(hit["links"][name]).content) for name in ("poster", "strip"))
    frames = http.get("/v1/models").json()["data"][0]["index"]["strip_frames"]
    shape = read_frames(hit["uri"], k=2, max_pixels=12544, min_pixels=3136).pixels.shape[1:3]
    assert poster.shape[:2] == shape
    assert strip.shape[1] == frames * shape[1]


def test_the_service_and_its_ray_listen_only_on_the_loopback_interface(server: Service) -> None:
    """Except for the port of each replica, which Ray Serve opens on all interfaces. Calls to it need the token."""
    replicas = set(server.replicas("gateway") + server.replicas("retriever-demo"))
    processes = {server.process, *server.process.children(recursive=True)} - replicas
    assert len(replicas) == 2
    assert len(processes) > 5
    addresses = {
        connection.laddr.ip.removeprefix("::ffff:")
        for process in processes
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }
    assert addresses == {"127.0.0.1"}


def test_posters_and_metadata_are_served_while_the_model_is_busy(http: httpx.Client, server: Service) -> None:
    """The process that holds the model is stopped, so it can answer nothing until it is resumed."""
    hits = http.post("/v1/search", json={"content": "anything", "top_k": VIDEOS}).json()["data"]
    models = http.get("/v1/models").json()
    (retriever,) = server.replicas("retriever-demo")
    with ThreadPoolExecutor(1) as pool:
        retriever.suspend()
        try:
            search = pool.submit(http.post, "/v1/search", json={"content": "anything", "top_k": VIDEOS})
            for hit in hits:
                assert http.get(hit["links"]["poster"]).headers["content-type"] == "image/jpeg"
                assert http.get(hit["links"]["strip"]).headers["content-type"] == "image/jpeg"
                video = http.get(hit["links"]["video"], headers={"Range": "bytes=0-9"})
                assert video.content == Path(hit["uri"]).read_bytes()[:10]
            assert http.get("/v1/models").json() == models
            assert not search.done()
        finally:
            retriever.resume()
        assert search.result().json()["data"] == hits


@pytest.mark.parametrize(
    "path",
    [
        "/media/demo/../../../../etc/passwd",
        "/media/demo/..%2f..%2f..%2fetc%2fpasswd",
        "/media/demo/%2fetc%2fpasswd",
        "/media/demo/file:%2f%2f%2fetc%2fpasswd",
        "/media/demo/",
        "/moments/demo/..%2f..%2fetc%2fpasswd.mp4",
        "/page/../app.py",
        "/page/..%2fapp.py",
        "/page/%2e%2e/app.py",
        "/previews/demo/..%2f..%2fposter/poster.jpg",
    ],
)
def test_no_path_leads_outside_the_page(server: Service, path: str) -> None:
    """The path is sent over a plain connection, because httpx would normalize it."""
    done = subprocess.run(
        [
            "curl",
            "--silent",
            "--noproxy",
            "*",
            "--path-as-is",
            "-o",
            "-",
            "-w",
            "\n%{http_code}",
            server.url + path,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    body, _, status = done.stdout.rpartition("\n")
    assert status == "404"
    assert "root:" not in body
    assert "FastAPI" not in body


def test_health_and_readiness(http: httpx.Client) -> None:
    assert http.get("/healthz").text == "ok\n"
    assert http.get("/readyz").text == "ready\n"
    page = http.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]


def test_metrics_of_all_nodes(http: httpx.Client) -> None:
    """Wait for the agents, which publish every few seconds, until all metrics of the dashboard are
    there.
    """
    assert http.post("/v1/search", json={"content": "a red ball"}).status_code == 200
    dashboard = (ROOT / "cluster" / "grafana" / "gve_ray.json").read_text()
    expected = set(re.findall(r"\bray_(?:serve|gve_request|gve_model)\w+", dashboard))
    wait_until(lambda: expected <= set(re.findall(r"(?m)^(\w+)", http.get("/metrics").text)))
    text = http.get("/metrics").text
    assert len(expected) == 8
    assert "# TYPE ray_gve_request_seconds histogram" in text
    assert any(
        line.startswith("ray_gve_requests") and 'route="/v1/' in line and 'status="200"' in line
        for line in text.splitlines()
    )
    assert "ray_serve_" in text
    assert text.count("# TYPE ray_gve_request_seconds ") == 1

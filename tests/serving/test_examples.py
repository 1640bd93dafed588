"""The documentation's search commands and Python examples, run against a real service.

Only names that a reader replaces are replaced: the address, the model's name, files and elided data.
"""

import base64
import re
import shutil
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from gve_ray.media import encode_jpeg, read_frames
from tests.documentation.examples import Example, commands, examples
from tests.serving.conftest import Service, gve

pytestmark = pytest.mark.timeout(600)
ADDRESS = "http://127.0.0.1:8000"
REQUESTS = [
    pytest.param(words, id=f"{example}-{words[0]}-{number}")
    for example in examples("sh")
    for number, words in enumerate(commands(example))
    if words[0] == "curl" or words[:2] == ["gve", "search"]
]


@pytest.fixture
def folder(server: Service, tmp_path: Path) -> Path:
    """A working folder with the files that the examples name."""
    frames = read_frames(server.heldout.videos[0], k=2, max_pixels=10**6)
    (tmp_path / "street.jpg").write_bytes(encode_jpeg(frames.pixels[0], quality=95))
    shutil.copy(server.heldout.videos[0], tmp_path / "clip.mp4")
    return tmp_path


def adapt(text: str, server: Service) -> str:
    """Replace what a reader replaces."""
    clip = base64.b64encode(Path(server.heldout.videos[0]).read_bytes()).decode()
    text = text.replace(ADDRESS, server.url).replace("base64,...", f"base64,{clip}")
    text = text.replace("/data/videos", str(Path(server.heldout.videos[0]).parent))
    if "0a1b..." in text or "2c3d..." in text:
        search = {"content": "a ball", "top_k": 2}
        hits = httpx.post(f"{server.url}/v1/search", json=search, timeout=60, trust_env=False).json()["data"]
        for elided, hit in zip(("0a1b...", "2c3d..."), hits, strict=True):
            text = text.replace(elided, hit["id"])
    return text.replace('"videos"', '"demo"')


def test_there_are_requests() -> None:
    programs = [parameter.values[0][0] for parameter in REQUESTS]
    assert {"curl", "gve"} <= set(programs)
    assert examples("python")


@pytest.mark.parametrize("words", REQUESTS)
def test_a_request(words: list[str], server: Service, folder: Path) -> None:
    words = [adapt(word, server) for word in words]
    if words[0] == "gve":
        options = [] if "--url" in words else ["--url", server.url]
        words = [*gve(*words[1:]), *options]
    else:
        words[1:1] = ["--silent", "--fail-with-body", "--noproxy", "*"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert any(video in done.stdout for video in server.heldout.videos)


# Not every machine has what these need: published weights, a speech model, the output of a job.
ELSEWHERE = ("Alibaba-NLP/", "import whisper", "load_dataset(")
PYTHON = [example for example in examples("python") if not any(need in example.text for need in ELSEWHERE)]


def test_the_example_of_the_readme(
    server: Service, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In this process, which has imported the libraries."""
    (example,) = (example for example in PYTHON if example.document == "README.md")
    monkeypatch.chdir(folder)
    exec(adapt(example.text, server), {})
    assert len(re.findall(r"(?m)^-?0\.\d{3}  .*\.mp4$", capsys.readouterr().out)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("example", PYTHON, ids=str)
def test_a_python_example(example: Example, server: Service, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", adapt(example.text, server)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr

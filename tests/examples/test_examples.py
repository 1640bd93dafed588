"""The scripts and the notebook in examples/ run on the packaged tiny model, and give the right results."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from examples import add_a_stage, embed_and_search, evaluate_my_model
from gve_ray.demo.render import encode_mp4
from gve_ray.demo.retrieval import Benchmark, write_heldout
from gve_ray.evaluation.data.layouts import load
from gve_ray.schema import Item

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
VIDEOS = 4


@pytest.fixture(scope="module")
def data_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_my_model.render_data_set(tmp_path_factory.mktemp("data") / "small", n=VIDEOS)


@pytest.fixture(scope="module")
def rendered(data_set: Path) -> Benchmark:
    return write_heldout(
        data_set / "videos", n=VIDEOS, seed=11, workers=1
    )  # finished files are not rendered again


def hits(printed: str) -> list[str]:
    """Return the names of the files, best first, below the line that repeats the query."""
    return [Path(line.split(maxsplit=1)[1]).name for line in printed.splitlines()[1:]]


def test_embed_and_search(rendered: Benchmark, capsys: pytest.CaptureFixture[str]) -> None:
    """The video that a text describes completely is the first hit, and every video is one."""
    names = [Path(video).name for video in rendered.videos]
    embed_and_search.main([str(Path(rendered.videos[0]).parent), str(rendered.queries["fine"][2].text)])
    found = hits(capsys.readouterr().out)
    assert found[0] == names[2]
    assert sorted(found) == sorted(names)


def test_the_scores_of_a_model_that_knows_the_answers(data_set: Path) -> None:
    """A model that gives query i the vector of video i scores 1; one that gives it another's scores 0."""
    data = load(data_set)
    assert (len(data.queries), len(data.corpus), data.skipped) == (VIDEOS, VIDEOS, [])
    row_of = {query.text: i for i, query in enumerate(data.queries)}

    def shifted(by: int) -> evaluate_my_model.Embed:
        def embed(items: Sequence[Item]) -> np.ndarray:
            rows = [row_of[item.text] + by if item.text else i for i, item in enumerate(items)]
            return np.eye(VIDEOS, dtype=np.float32)[np.array(rows) % VIDEOS]

        return embed

    assert evaluate_my_model.score(data, shifted(0)).tolist() == [1.0] * VIDEOS
    assert evaluate_my_model.score(data, shifted(1)).tolist() == [0.0] * VIDEOS


def test_evaluate_my_model(data_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate_my_model.main([str(data_set)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"small: {VIDEOS} queries, 0 faults in the data"
    own, whole, difference = (float(line.split("[")[0].split()[-1]) for line in lines[1:])
    assert 0 <= own <= 1
    assert difference == pytest.approx(own - whole, abs=0.002)


def test_a_filter_can_be_tried_on_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Stripes three pixels wide jump in brightness like letters; a plain picture does not."""
    plain = np.full((8, 120, 160, 3), 128, dtype=np.uint8)
    striped = plain.copy()
    striped[:, 100:110] = (np.arange(160) // 3 % 2 * 255)[None, None, :, None]
    encode_mp4(tmp_path / "plain.mp4", plain, fps=8, width=160, height=120)
    encode_mp4(tmp_path / "striped.mp4", striped, fps=8, width=160, height=120)
    (tmp_path / "text.mp4").write_text("no video")
    add_a_stage.main([str(tmp_path)])
    verdicts = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert verdicts["plain.mp4"] == "passes"
    assert verdicts["striped.mp4"].startswith("text share 0.")
    assert verdicts["text.mp4"].startswith("not read: not_a_video")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_notebook_shows_pictures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.delenv("MPLBACKEND")  # the kernel would draw nothing with the backend of the tests
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(EXAMPLES / "search.ipynb", as_version=4)
    NotebookClient(notebook, timeout=500, kernel_name="python3").execute(cwd=tmp_path)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3
    assert sys.version_info[:2] == tuple(map(int, notebook.metadata.language_info.version.split(".")[:2]))

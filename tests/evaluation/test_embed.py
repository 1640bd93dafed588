"""Fingerprints of items, the worker's rows, and vectors read back. The Ray stage is in
tests/integration.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from gve_ray.config import StageResources
from gve_ray.embedder import EmbedderSettings, Embeddings
from gve_ray.embedder.backends import cache_name
from gve_ray.embedder.embeddings import Finished, ignore
from gve_ray.evaluation import embed
from gve_ray.evaluation.config import ModelConfig
from gve_ray.evaluation.embed import (
    EMBEDDING_SCHEMA,
    KEY,
    EmbedWorker,
    ItemIndex,
    pending_table,
    read_vectors,
)
from gve_ray.schema import Frames, Item
from gve_ray.stage import REJECT_SCHEMA, Reject, StageCounts
from gve_ray.store import Store

NO_VIDEO = {"signature": None, "duration": None}
SETTINGS = EmbedderSettings(frames=2, max_pixels=3136, min_pixels=3136)


def picture(path: Path, shade: int) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (56, 56), (shade, shade, shade)).save(path)
    return str(path)


def test_a_key_depends_on_the_content(tmp_path: Path) -> None:
    original, copy = picture(tmp_path / "one.png", 10), picture(tmp_path / "elsewhere/copy.png", 10)
    other = picture(tmp_path / "other.png", 11)
    index = ItemIndex(tmp_path / "cache")
    items = [
        Item(image=original),
        Item(image=copy),
        Item(image=other),
        Item(video=original),
        Item(image=original, text="and words"),
        Item(text="and words"),
        Item(text="and words", instruction="Find it."),
    ]
    keys = index.keys(items)
    assert keys[0] == keys[1]
    assert len(set(keys)) == len(keys) - 1


def test_the_key_of_a_frame_folder_depends_on_its_pictures_in_order(tmp_path: Path) -> None:
    for name, shades in (("a", (1, 2)), ("b", (1, 2)), ("c", (2, 1))):
        for i, shade in enumerate(shades):
            picture(tmp_path / name / f"{name}-{i}.png", shade)
    first, second, turned = ItemIndex(tmp_path / "cache").keys(
        [Item(video=str(tmp_path / name)) for name in "abc"]
    )
    assert first == second
    assert first != turned


def test_media_are_read_again_only_if_they_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(picture(tmp_path / "one.png", 10))
    read: list[str] = []
    digest = embed.media_digest
    monkeypatch.setattr(embed, "media_digest", lambda name: (read.append(name), digest(name))[1])
    (before,) = ItemIndex(tmp_path / "cache").keys([Item(image=str(path))])
    assert ItemIndex(tmp_path / "cache").keys([Item(image=str(path))]) == [before]
    assert read == [str(path)]
    picture(path, 200)
    os.utime(path, ns=(1, 1))
    assert ItemIndex(tmp_path / "cache").keys([Item(image=str(path))]) != [before]
    assert read == [str(path)] * 2


def test_media_in_memory_have_no_key(tmp_path: Path) -> None:
    still = Frames(
        pixels=np.zeros((1, 4, 4, 3), np.uint8),
        timestamps=np.zeros(1),
        indices=np.zeros(1, np.int64),
        fps=0,
        duration=0,
        total_frames=1,
    )
    with pytest.raises(ValueError, match="name their media by path"):
        ItemIndex(tmp_path).keys([Item(image=still)])


def test_pending_has_each_item_once_in_order_of_kind_and_length() -> None:
    items = [Item(text="bb"), Item(video="v"), Item(text="aaaa"), Item(text="bb"), Item(image="i", text="x")]
    table = pending_table(items, ["k1", "k2", "k3", "k1", "k5"])
    assert table.column(KEY).to_pylist() == ["k5", "k2", "k3", "k1"]
    assert table.column("text").to_pylist() == ["x", None, "aaaa", "bb"]


class Half:
    """Embeds everything but videos; a text "nan" gives a broken vector."""

    def __init__(self) -> None:
        self.batch_sizes: list[int] = []

    def refuses(self, item: Item) -> str:
        return "no videos" if item.video else ""

    def embed(self, items: Sequence[Item], finished: Finished = ignore) -> Embeddings:
        self.batch_sizes.append(len(items))
        values = [np.nan if item.text == "nan" else float(len(item.text or "")) for item in items]
        vectors = np.array([[value, 1.0] for value in values], dtype=np.float32)
        return Embeddings(vectors=vectors, tokens=np.zeros(len(items)), cut=np.array(values) > 3)

    def close(self) -> None:
        pass


def test_the_worker_returns_a_row_or_a_reject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Half()
    monkeypatch.setattr(embed, "open_model", lambda *_: model)
    worker = EmbedWorker(ModelConfig(name="m", model="m"), SETTINGS, {}, readers=2)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    items = [
        Item(text="long text"),
        Item(video="v.mp4"),
        Item(image=str(broken)),
        Item(text="nan"),
        Item(image=picture(tmp_path / "a.png", 9), text="ab"),
    ]
    rows = pending_table(items, list("01234")).to_pylist()
    outcomes = {row[KEY]: outcome for row, outcome in zip(rows, worker(rows), strict=True)}
    assert outcomes["0"] == {KEY: "0", "vector": [9.0, 1.0], "cut": True, **NO_VIDEO}
    assert outcomes["4"] == {KEY: "4", "vector": [2.0, 1.0], "cut": False, **NO_VIDEO}
    reasons = {key: outcome.reason for key, outcome in outcomes.items() if isinstance(outcome, Reject)}
    assert reasons == {"1": "unsupported", "2": "not_a_picture", "3": "not_finite"}
    assert model.batch_sizes == [3]


def test_an_item_embedded_by_another_run_is_no_longer_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run A rejected item b and was killed; run B, with the same cache, embedded it; run A is
    restarted.
    """
    seen: list[set[str]] = []

    class Runner:
        def __init__(self, name: str, *, rejects: Store, **_: object) -> None:
            self.rejects = rejects

        def __enter__(self) -> "Runner":
            seen.append(self.rejects.keys())
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def stop(self) -> None:
            pass

        def run(self, pending: pa.Table) -> StageCounts:
            return StageCounts(name="embed m", n_in=2, n_out=2, n_rejected=0, seconds=0.0)

    monkeypatch.setattr(embed, "StageRunner", Runner)
    facts: dict[str, str] = {}
    store = Store(str(tmp_path / cache_name(facts) / "embeddings.lance"), EMBEDDING_SCHEMA, key=KEY).create()
    rejects = Store(str(tmp_path / "rejects.lance"), REJECT_SCHEMA).create()
    reject = Reject("error", "out of memory").row("b", stage="embed m", unit="item")
    rejects.append(pa.Table.from_pylist([reject], schema=REJECT_SCHEMA))

    def again() -> embed.Embedded:
        with embed.ItemEmbedder(
            ModelConfig(name="m", model="m"),
            SETTINGS,
            facts,
            cache=str(tmp_path),
            rejects=str(tmp_path / "rejects.lance"),
            resources=StageResources(actors=1),
        ) as embedder:
            return embedder.embed(pending_table([Item(text="a"), Item(text="b")], ["a", "b"]))

    assert (again().n_found, seen) == (0, [{"b"}])
    store.append(pa.Table.from_pylist([{KEY: "b", "vector": [1.0], "cut": False}], schema=EMBEDDING_SCHEMA))
    assert (again().n_found, seen[1:]) == (1, [set()])


def test_vectors_are_in_the_order_of_the_keys(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "e.lance"), EMBEDDING_SCHEMA, key=KEY).create()
    rows = [{KEY: f"k{i}", "vector": [i, -i], "cut": i == 2} for i in range(4)]
    store.append(pa.Table.from_pylist(rows, schema=EMBEDDING_SCHEMA))
    vectors, cut = read_vectors(store, ["k2", "k0", "k2", "k3"])
    assert vectors.tolist() == [[2, -2], [0, 0], [2, -2], [3, -3]]
    assert cut.tolist() == [True, False, True, False]
    assert vectors.dtype == np.float32
    assert read_vectors(store, [])[0].shape == (0, 0)


def test_the_rate_of_frame_folders_is_part_of_the_key_and_of_the_frames(tmp_path: Path) -> None:
    for i in range(8):
        picture(tmp_path / "clip" / f"{i}.png", i)
    index = ItemIndex(tmp_path / "cache")
    items = [Item(video=str(tmp_path / "clip")), Item(text="a text")]
    usual, faster = index.keys(items), index.keys(items, 2.0)
    assert usual == index.keys(items, 1.0)
    assert usual[0] != faster[0]
    assert usual[1] == faster[1]

    class Model:
        def refuses(self, item: Item) -> str:
            return ""

    worker = object.__new__(embed.EmbedWorker)
    worker._model, worker._settings = Model(), EmbedderSettings(frames=4)  # type: ignore[assignment]
    rows = pending_table([items[0], items[0]], ["a", "b"], [1.0, 2.0]).to_pylist()
    slow, fast = (worker._read(row).video for row in sorted(rows, key=lambda row: row["item"]))
    assert (slow.fps, slow.duration, slow.timestamps.tolist()) == (1.0, 8.0, [0.0, 2.0, 5.0, 7.0])
    assert (fast.fps, fast.duration, fast.timestamps.tolist()) == (2.0, 4.0, [0.0, 1.0, 2.5, 3.5])

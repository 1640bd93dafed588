"""Mine whole data sets on one and two ranks. Expected negatives are found by sorting all targets of a data set."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gve_ray.embedder import Embedder
from gve_ray.schema import Item
from gve_ray.store import SharedFolder
from gve_ray.training import hard_negatives
from gve_ray.training.config import ProberConfig
from gve_ray.training.hard_negatives import Embed, mine_hard_negatives, mined_by
from gve_ray.training.mining import NONE
from gve_ray.training.mixture import DataSet
from tests.embedder.conftest import save_tiny
from tests.training import mining_ranks
from tests.training.forked import start_ranks
from tests.training.mining_ranks import PAIRS, letters_embed, make_dataset


def mine_alone(
    embed: Embed, dataset: DataSet, folder: Path, *, seed: int = 3, **config: object
) -> np.ndarray:
    """Mine on one rank without a process group; return the pairs whose targets are the negatives."""
    settings = ProberConfig(**config)  # type: ignore[arg-type]
    mined = mine_hard_negatives(
        lambda: ("letters", embed), dataset, SharedFolder(folder), settings, seed=seed
    )
    return mined.of(np.arange(len(dataset.pairs)))


def run_ranks(
    folder: Path, uri: str, size: int, *, killed: int | None = None, model: Path | None = None
) -> list[int]:
    """Mine on `size` processes; return how many items each has embedded. All end, whether killed or failed."""
    (folder / "store").unlink(missing_ok=True)
    counts = [folder / f"items-{rank}" for rank in range(size)]
    for path in counts:
        path.unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    arguments = (size, str(folder), uri, killed, model and str(model), environment)
    processes = start_ranks(mining_ranks.rank_main, arguments, size, join=False)
    for process in processes.processes:
        process.join()
    assert [process.exitcode == 0 for process in processes.processes] == [killed is None] * size
    return [sum(map(int, path.read_text().split())) if path.exists() else 0 for path in counts]


def by_sorting(dataset: DataSet, embed: Embed, *, k: int, margin: float | None) -> list[list[int]]:
    """Sort all targets for each query and drop those that must not be negatives."""
    pairs = dataset.pairs.take(range(len(dataset.pairs)))
    texts = [str(pair.target.text) for pair in pairs]
    first = sorted({text: texts.index(text) for text in texts}.values())
    queries, targets = embed([pair.query for pair in pairs]), embed([pair.target for pair in pairs])
    scores = (queries.astype(np.float64) @ targets.astype(np.float64).T).round(6)
    expected = []
    for i, pair in enumerate(pairs):
        own = {text for other, text in zip(pairs, texts, strict=True) if other.query.text == pair.query.text}
        limit = np.inf if margin is None else round(scores[i, i] + margin, 6)
        order = sorted(first, key=lambda row: (-scores[i, row], row))
        kept = [row for row in order if texts[row] not in own and scores[i, row] <= limit]
        expected.append((kept + [NONE] * k)[:k])
    return expected


@pytest.mark.parametrize("margin", [None, 0.1])
def test_the_hardest_targets_of_the_data_set_are_mined(tmp_path: Path, margin: float | None) -> None:
    dataset = make_dataset(tmp_path)
    pairs = dataset.pairs.take(range(PAIRS))
    assert len({str(pair.query.text) for pair in pairs}) < PAIRS  # some queries have two targets
    mined = mine_alone(letters_embed(), dataset, tmp_path / "run", margin=margin)
    assert mined.tolist() == by_sorting(dataset, letters_embed(), k=2, margin=margin)
    assert mined_by(SharedFolder(tmp_path / "run"), "texts") == "letters"
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["texts.mined.json", "texts.npy"]


def test_the_seed_samples_the_targets_that_are_searched(tmp_path: Path) -> None:
    dataset = make_dataset(tmp_path)
    embedded: list[str] = []

    def embed(items: Sequence[Item]) -> np.ndarray:
        embedded.extend(str(item.text) for item in items)
        return letters_embed()(items)

    sampled = {
        seed: mine_alone(embed, dataset, tmp_path / f"run-{seed}", seed=seed, corpus=20, margin=None)
        for seed in (1, 2)
    }
    for rows in sampled.values():
        assert len(set(rows.ravel().tolist()) - {NONE}) <= 20
    assert (sampled[1] != sampled[2]).any()
    assert len(embedded) == 2 * (20 + PAIRS)  # no target outside the sample
    # With a margin, the score of each pair is needed: of its target too, whether in the sample or not.
    all_targets = by_sorting(dataset, letters_embed(), k=PAIRS, margin=0.02)
    embedded.clear()
    dataset = replace(dataset, negatives=3)
    with_margin = mine_alone(embed, dataset, tmp_path / "margin", seed=1, corpus=20, margin=0.02)
    in_sample = {pair.target.text for pair in dataset.pairs.take(np.arange(PAIRS))} & set(embedded[:20])
    pairs = dataset.pairs.take(range(PAIRS))
    for i in range(PAIRS):
        kept = [row for row in all_targets[i] if row != NONE and pairs[row].target.text in in_sample]
        assert with_margin[i].tolist() == (kept + [NONE] * 3)[:3]
    assert len(embedded) < PAIRS + PAIRS // 2 + 10  # about each distinct target once


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The negatives that one rank mines with the settings of mining_ranks."""
    folder = tmp_path_factory.mktemp("alone")
    return mine_alone(letters_embed(), make_dataset(folder), folder / "run", corpus=130, margin=0.1)


@pytest.fixture(params=["path", "object store"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where the ranks share their results. In an object store, each has its own local files."""
    if request.param == "path":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('s3')}/run"


def result(uri: str, folder: Path) -> np.ndarray:
    shared = SharedFolder(uri)
    assert shared.names() == ["texts.mined.json", "texts.npy"]
    assert json.loads(shared.fetch("texts.mined.json").read_text())["searched"] == 130
    assert len(make_dataset(folder).pairs) == PAIRS
    return np.load(shared.fetch("texts.npy"))


def test_two_ranks_mine_the_same_negatives_as_one_and_share_the_work(
    tmp_path: Path, uri: str, alone: np.ndarray
) -> None:
    items = run_ranks(tmp_path, uri, 2)
    assert result(uri, tmp_path).tolist() == alone.tolist()
    # Two of three chunks of the corpus and three of five of the queries: at most 64 items more than half each.
    assert max(items) - min(items) <= 3 * 64
    assert sum(items) < 130 + PAIRS + 40
    assert run_ranks(tmp_path, uri, 2) == [0, 0]  # a second call reuses the result


# The last of two ranks embeds in calls 1 and 2 a chunk of the corpus and of queries.
@pytest.mark.parametrize(
    "killed,size",
    [(2, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1, 1), (2, 1), (2, 3)))],
)
def test_a_killed_run_continues_with_any_number_of_ranks_and_repeats_no_chunk(
    tmp_path: Path, uri: str, alone: np.ndarray, killed: int, size: int
) -> None:
    before = run_ranks(tmp_path, uri, 2, killed=killed)
    assert not SharedFolder(uri).exists("texts.npy")
    after = run_ranks(tmp_path, uri, size)
    assert result(uri, tmp_path).tolist() == alone.tolist()
    uninterrupted = run_ranks(tmp_path, f"{uri}-again", 1)
    repeated = sum(before) + sum(after) - sum(uninterrupted)
    assert 0 <= repeated <= 2 * 64  # at most the chunk of the killed rank (queries and targets)


def test_chunks_of_other_pairs_are_not_used(tmp_path: Path) -> None:
    class KilledError(Exception):
        pass

    def interrupted(items: Sequence[Item]) -> np.ndarray:
        if "A" not in str(items[0].text) and not str(items[0].text).isupper():
            raise KilledError
        return letters_embed()(items)

    (tmp_path / "old").mkdir()
    with pytest.raises(KilledError):
        mine_alone(interrupted, make_dataset(tmp_path / "old", pairs=200), tmp_path / "run")
    assert list((tmp_path / "run").glob("mining-texts/*/targets-*.npy"))
    dataset = make_dataset(tmp_path)
    mined = mine_alone(letters_embed(), dataset, tmp_path / "run", margin=None)
    assert mined.tolist() == by_sorting(dataset, letters_embed(), k=2, margin=None)


@pytest.mark.parametrize("rows", [np.zeros((2, 2), dtype=np.int32), np.zeros((PAIRS, 2), dtype=np.int64)])
def test_a_result_for_other_pairs_or_of_another_version_is_refused(tmp_path: Path, rows: np.ndarray) -> None:
    np.save(tmp_path / "texts.npy", rows)
    with pytest.raises(ValueError, match=r"texts\.npy: .* has 300 pairs .* delete the file"):
        mine_alone(letters_embed(), make_dataset(tmp_path), tmp_path)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("base"), "qwen2_5_vl")


@pytest.mark.slow
def test_a_real_model_mines_the_same_on_one_and_two_ranks(tmp_path: Path, base: Path) -> None:
    """In its default dtype: bfloat16 on some processors, whose embeddings depend on the batch by 0.004."""
    mined = []
    for size in (1, 2):
        uri = str(tmp_path / f"run-{size}")
        run_ranks(tmp_path, uri, size, model=base)
        mined.append(result(uri, tmp_path).tolist())
    assert mined[0] == mined[1]


def test_in_float32_the_batches_of_a_real_model_do_not_decide_what_is_mined(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = Embedder.from_pretrained(base, device="cpu", dtype="float32")
    dataset = make_dataset(tmp_path, pairs=60)
    items = [pair.target for pair in dataset.pairs.take(range(60))]
    together = embedder.embed([*items, Item(text="a far longer text, so that the others are padded")])[:-1]
    alone = np.concatenate([embedder.embed([item]) for item in items])
    assert np.abs(together - alone).max() < 1e-5
    mined = {}
    for size in (5, 64):
        monkeypatch.setattr(hard_negatives, "_CHUNK", (size, size))
        mined[size] = mine_alone(embedder.embed, dataset, tmp_path / f"run-{size}", margin=0.1).tolist()
    assert mined[5] == mined[64]

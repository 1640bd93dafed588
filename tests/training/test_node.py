"""Real processes of one or two nodes load a mixture. A node is a folder for temporary files."""

import json
import os
from pathlib import Path
from typing import Any

from gve_ray.training.config import DataSetConfig
from gve_ray.training.mixture import load_mixture
from gve_ray.training.node import once_per_node
from tests.training import node_ranks
from tests.training.forked import start_ranks


def write_pairs(folder: Path, count: int = 40) -> None:
    lines = [json.dumps({"query": f"query {i}", "positive": f"answer {i}"}) for i in range(count)]
    (folder / "pairs.jsonl").write_text("\n".join(lines))


def run_ranks(folder: Path, nodes: tuple[int, ...], fault: str = "") -> list[dict[str, Any] | None]:
    """Start a process for each rank; return what each saved, or None for a rank that was killed."""
    (folder / "store").unlink(missing_ok=True)
    for node in set(nodes):
        (folder / f"node-{node}").mkdir(exist_ok=True)
    arguments = (len(nodes), str(folder), nodes, fault)
    processes = start_ranks(node_ranks.rank_main, arguments, len(nodes), join=False)
    for process in processes.processes:
        process.join()
    results = [folder / f"rank-{rank}.json" for rank in range(len(nodes))]
    loaded = [json.loads(path.read_text()) if path.exists() else None for path in results]
    for path in results:
        path.unlink(missing_ok=True)
    return loaded


def builds(folder: Path, node: int) -> list[str]:
    """Return the ranks that have written a mixture on a node, in order."""
    return (folder / f"node-{node}" / "builds").read_text().split()


def leftovers(folder: Path, node: int) -> list[str]:
    return [path.name for path in (folder / f"node-{node}").iterdir() if path.name != "builds"]


def test_one_rank_of_each_node_writes_the_mixture_and_all_ranks_read_the_same_pairs(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    results = run_ranks(tmp_path, nodes=(0, 0, 1))
    assert (builds(tmp_path, 0), builds(tmp_path, 1)) == (["0"], ["2"])
    config = DataSetConfig(name="texts", uri=str(tmp_path / "pairs.jsonl"), format="text_pairs", sample=20)
    expected = load_mixture([config], tmp_path / "alone", seed=1)["texts"].pairs
    expected_ids = [pair.pair_id for pair in expected.take(range(20))]
    assert [result and result["pairs"] for result in results] == [expected_ids] * 3
    folders = [result["folder"] for result in results if result]
    assert folders[0] == folders[1] != folders[2]
    assert leftovers(tmp_path, 0) == leftovers(tmp_path, 1) == []


def test_all_ranks_raise_the_error_of_the_rank_that_writes(tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text('{"query": "no answer"}\n')
    for result in run_ranks(tmp_path, nodes=(0, 0, 1)):
        assert result is not None
        assert result["error"] == "ValueError"
        assert "no column positive" in result["message"]
    assert leftovers(tmp_path, 0) == leftovers(tmp_path, 1) == []


def test_an_error_that_cannot_be_pickled_reaches_the_other_ranks_by_its_message(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    for result in run_ranks(tmp_path, nodes=(0, 0), fault="opaque error"):
        assert result is not None
        assert result["error"] == "RuntimeError"
        assert result["message"].startswith("OpaqueError: ")
        assert result["message"].endswith("the disk is full")


def test_ranks_do_not_wait_for_a_killed_one_and_a_new_run_does_not_use_its_files(tmp_path: Path) -> None:
    write_pairs(tmp_path, count=30)
    killed, waiting = run_ranks(tmp_path, nodes=(0, 0), fault="killed")
    assert killed is None
    assert waiting is not None
    assert waiting["error"] == "RuntimeError"  # gloo: the connection was closed
    assert any(name.startswith("gve-shared-") for name in leftovers(tmp_path, 0))
    write_pairs(tmp_path, count=10)  # other pairs under the same name
    results = run_ranks(tmp_path, nodes=(0, 0))
    assert [result and len(result["pairs"]) for result in results] == [10, 10]
    assert builds(tmp_path, 0) == ["0", "0"]
    assert leftovers(tmp_path, 0) == []


def test_without_a_process_group_the_result_is_not_copied(tmp_path: Path) -> None:
    made = object()
    folders = []

    def make(folder: Path) -> object:
        folders.append(folder)
        return made

    with once_per_node(make) as result:
        assert result is made
        assert os.listdir(folders[0]) == []
    assert not folders[0].exists()

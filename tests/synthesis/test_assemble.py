"""Quotas, and files of pairs that are the same bytes again."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.schema import ANNOTATION_SCHEMA, PAIR_SCHEMA, UVRD_PAIRS, UVRD_TASKS, AssetRef, Task
from gve_ray.store import Store
from gve_ray.synthesis.assemble import EARLY, assemble, early_config, quotas
from gve_ray.synthesis.config import AssembleConfig
from tests.synthesis.annotations import annotation


def store(folder, rows):
    made = Store(str(folder), ANNOTATION_SCHEMA).create()
    for start in range(0, len(rows), 7):  # several commits
        made.append(pa.Table.from_pylist(rows[start : start + 7], schema=ANNOTATION_SCHEMA))
    return made


def fail_at(call, function):
    calls = []

    def failing(*args, **options):
        calls.append(args)
        if len(calls) == call:
            raise OSError("the disk is full")
        return function(*args, **options)

    return failing


def digests(folder):
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in paths}


def rows_of(folder, task):
    return pq.read_table(Path(folder) / f"task={task}").to_pylist()


class TestQuotas:
    def test_scale_to_one_t2v_pair_a_video(self):
        available = dict.fromkeys(UVRD_TASKS, 10**9) | {Task.T2V: 879}
        targets = quotas(AssembleConfig(), available)
        # Table 7 in thousands: 879 T2V candidates fill its 879 K at one in a thousand.
        assert {task.value: n for task, n in targets.items()} == {
            "T2T": 100, "T2I": 210, "T2V": 879, "TI2V": 89, "TV2V": 35, "I2V": 200, "V2V": 36,
        }  # fmt: skip

    def test_small_corpora_round_up_so_that_no_task_is_empty(self):
        available = dict.fromkeys(UVRD_TASKS, 12)
        targets = quotas(AssembleConfig(), available)
        assert targets[Task.T2V] == 12
        assert targets[Task.TV2V] == 1  # 12 * 35 / 879 = 0.48
        assert targets[Task.T2I] == 3  # 12 * 210 / 879 = 2.87

    def test_a_given_scale_counts(self):
        targets = quotas(AssembleConfig(scale=0.01), dict.fromkeys(UVRD_TASKS, 5))
        assert targets[Task.T2V] == 8790
        assert targets[Task.TV2V] == 350

    def test_without_t2v_the_task_that_fills_first_sets_the_scale(self):
        config = AssembleConfig(quotas={"T2I": 10, "I2V": 40})
        targets = quotas(config, dict.fromkeys(UVRD_TASKS, 20))
        assert targets[Task.T2I] == 20
        assert targets[Task.I2V] == 80
        assert targets[Task.T2V] == 0


class TestAssemble:
    def test_counts_add_up_and_quotas_hold(self, tmp_path):
        rows = [annotation(f"v{i:03d}", clips=i % 4 == 0) for i in range(60)]
        annotations = store(tmp_path / "a.lance", rows)
        result = assemble(annotations, str(tmp_path / "uvrd"), config=AssembleConfig(), seed=1)
        want = {
            "T2V": (60, 60, 60),
            "T2T": (7, 60, 7),  # 60 * 100 / 879 = 6.8
            "T2I": (15, 60, 15),  # 14.3
            "TI2V": (7, 60, 7),  # 6.1
            "TV2V": (3, 60, 3),  # 2.4
            "I2V": (14, 60, 14),  # 13.7
            "V2V": (3, 15, 3),  # 2.5
        }
        got = {task.value: (n.quota, n.candidates, n.pairs) for task, n in result.tasks.items()}
        assert got == want
        assert (result.counts.n_in, result.counts.n_out) == (60 * 6 + 15, sum(n[2] for n in want.values()))
        for task, (_, _, pairs) in want.items():
            rows = rows_of(tmp_path / "uvrd", task)
            assert len({row["pair_id"] for row in rows}) == len(rows) == pairs
            assert {row["task"] for row in rows} == {task}
            for row in rows:
                for item in (row["query"], row["target"]):
                    for ref in (item["image"], item["video"]):
                        assert ref is None or str(AssetRef.parse(ref)) == ref

    @pytest.mark.parametrize(("in_memory", "batch"), [(60, 60), (60, 7), (59, 7)])
    def test_pairs_and_their_order_are_those_of_earlier_versions(
        self, tmp_path, monkeypatch, in_memory, batch
    ):
        """So that a run that was begun with one version goes on with another; whether they stay in memory or not."""
        monkeypatch.setattr("gve_ray.synthesis.assemble._IN_MEMORY", in_memory)
        monkeypatch.setattr("gve_ray.synthesis.assemble._BATCH", batch)
        rows = [annotation(f"v{i:03d}", clips=i % 4 == 0) for i in range(60)]
        annotations = store(tmp_path / "a.lance", rows)
        assemble(annotations, str(tmp_path / "uvrd"), config=AssembleConfig(), seed=1)
        ids = "".join(row["pair_id"] for task in UVRD_TASKS for row in rows_of(tmp_path / "uvrd", task.value))
        assert hashlib.sha256(ids.encode()).hexdigest()[:32] == "76f2baf3e1068a4255e2cb3ebf0b5fbd"

    def test_a_task_that_the_corpus_cannot_fill_says_so(self, tmp_path):
        annotations = store(tmp_path / "a.lance", [annotation(f"v{i}", clips=0) for i in range(5)])
        result = assemble(annotations, str(tmp_path / "uvrd"), config=AssembleConfig(), seed=1)
        assert (result.tasks[Task.V2V].quota, result.tasks[Task.V2V].pairs) == (1, 0)
        assert not (tmp_path / "uvrd" / "task=V2V").exists()

    def test_same_bytes_again_whatever_the_commit_order(self, tmp_path):
        rows = [annotation(f"v{i:03d}") for i in range(40)]
        for name, order in (("a", rows), ("b", rows[::-1])):
            annotations = store(tmp_path / f"{name}.lance", order)
            assemble(annotations, str(tmp_path / name), config=AssembleConfig(), seed=1, part_rows=9)
        assemble(annotations, str(tmp_path / "b"), config=AssembleConfig(), seed=1, part_rows=9)
        assert digests(tmp_path / "a") == digests(tmp_path / "b")
        assert sorted(path.name for path in (tmp_path / "a" / "task=T2V").iterdir()) == [
            f"part-{i:05d}.parquet" for i in range(5)  # 40 pairs by 9
        ]  # fmt: skip

    def test_another_seed_draws_otherwise(self, tmp_path):
        annotations = store(tmp_path / "a.lance", [annotation(f"v{i:03d}") for i in range(40)])
        for seed in (1, 2):
            assemble(annotations, str(tmp_path / str(seed)), config=AssembleConfig(), seed=seed)
        assert rows_of(tmp_path / "1", "T2V") != rows_of(tmp_path / "2", "T2V")

    def test_parts_of_an_earlier_or_killed_run_are_removed(self, tmp_path):
        annotations = store(tmp_path / "a.lance", [annotation(f"v{i}") for i in range(20)])
        out = tmp_path / "uvrd"
        assemble(annotations, str(out), config=AssembleConfig(), seed=1, part_rows=3)
        (out / "task=T2V" / ".part-00009.parquet.partial").write_bytes(b"half")
        assemble(annotations, str(out), config=AssembleConfig(quotas={"T2V": 1}), seed=1)
        assert [str(path.relative_to(out)) for path in sorted(out.rglob("*")) if path.is_file()] == [
            "task=T2V/part-00000.parquet"
        ]

    def test_early_sets_grow_until_the_whole_replaces_them(self, tmp_path):
        ids = [f"v{i:02d}" for i in range(40)]
        annotations = store(tmp_path / "a.lance", [annotation(video) for video in ids])
        config, out = AssembleConfig(scale=40 / UVRD_PAIRS[Task.T2V]), tmp_path / "uvrd"

        def early(part, of_part):
            share = early_config(config, len(of_part) / len(ids))
            prefix = f"{EARLY}{part:05d}-"
            return assemble(annotations, str(out), config=share, seed=1, ids=pa.array(of_part), prefix=prefix)

        made = [early(part, ids[10 * part : 10 * part + 10]) for part in range(3)]
        rows = rows_of(out, "T2V")
        assert [set_.tasks[Task.T2V].pairs for set_ in made] == [10, 10, 10]  # a quarter of the quota each
        assert {row["target"]["video"] for row in rows} == {f"asset://{video}/video" for video in ids[:30]}
        before = digests(out)
        early(1, ids[10:20])  # as a run does that was killed and goes on
        assert digests(out) == before
        assemble(annotations, str(out), config=config, seed=1)
        assert {path.name for path in (out / "task=T2V").iterdir()} == {"part-00000.parquet"}
        alone = tmp_path / "alone"
        assemble(annotations, str(alone), config=config, seed=1)
        assert digests(out) == digests(alone)
        early(0, ids[:10])  # of a longer input: the pairs of the shorter one stay until the end
        assert digests(out) == digests(alone)

    def test_a_failure_leaves_the_earlier_pairs(self, tmp_path, monkeypatch):
        annotations = store(tmp_path / "a.lance", [annotation(f"v{i}") for i in range(20)])
        out = tmp_path / "uvrd"
        assemble(annotations, str(out), config=AssembleConfig(), seed=1)
        before = digests(out)
        monkeypatch.setattr(pq, "write_table", fail_at(3, pq.write_table))
        with pytest.raises(OSError, match="disk is full"):
            assemble(annotations, str(out), config=AssembleConfig(), seed=2)
        kept = {name: digest for name, digest in digests(out).items() if not name.endswith(".partial")}
        assert kept == before

    def test_readers_agree_on_the_schema(self, tmp_path):
        annotations = store(tmp_path / "a.lance", [annotation(f"v{i}") for i in range(5)])
        assemble(annotations, str(tmp_path / "uvrd"), config=AssembleConfig(quotas=dict(UVRD_PAIRS)), seed=1)
        part = next((tmp_path / "uvrd" / "task=T2V").glob("*.parquet"))
        assert pq.ParquetFile(part).schema_arrow.equals(PAIR_SCHEMA)
        whole = pq.read_table(tmp_path / "uvrd")
        assert set(whole.column("task").to_pylist()) == {task.value for task in UVRD_TASKS}

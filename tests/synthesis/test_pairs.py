"""The pairs that annotations offer for seven tasks, and their ids."""

import hashlib
import json
from collections import Counter

import pyarrow as pa
import pytest

from gve_ray.schema import ANNOTATION_SCHEMA, ITEM_TYPE, UVRD_TASKS, Task
from gve_ray.synthesis.config import AssembleConfig
from gve_ray.synthesis.pairs import COLUMNS, INSTRUCTIONS, candidates, caption_domain, pair_ids
from tests.synthesis.annotations import STYLES, annotation


def listed(rows, seed=1, **options):
    """All candidates of rows as (task, pair), in order."""
    batch = pa.RecordBatch.from_pylist(rows, schema=ANNOTATION_SCHEMA).select(COLUMNS)
    by_task = candidates(batch, seed, AssembleConfig(**options))
    return [(task, pair) for task, pairs in by_task.items() for pair in pairs.to_pylist()]


def id_of(task, query, target):
    fields = {"query": [query], "target": [target]}
    pairs = pa.record_batch({name: pa.array(items, ITEM_TYPE) for name, items in fields.items()})
    return pair_ids(task, pairs)[0]


class TestCandidates:
    def by_task(self, row, seed=1):
        return dict(listed([row], seed))

    def test_every_task_with_its_modalities(self):
        pairs = self.by_task(annotation("v"))
        video = {"text": None, "image": None, "video": "asset://v/video"}
        filled = {
            task: (
                "".join(k[0] for k in ("text", "image", "video") if pair["query"][k]),
                "".join(k[0] for k in ("text", "image", "video") if pair["target"][k]),
            )
            for task, pair in pairs.items()
        }
        assert filled == {
            Task.T2T: ("t", "t"), Task.T2I: ("t", "i"), Task.T2V: ("t", "v"), Task.TI2V: ("ti", "v"),
            Task.TV2V: ("tv", "v"), Task.I2V: ("i", "v"), Task.V2V: ("v", "v"),
        }  # fmt: skip
        for task in (Task.T2V, Task.TI2V, Task.TV2V, Task.I2V, Task.V2V):
            assert pairs[task]["target"] == video
        assert pairs[Task.V2V]["query"]["video"] == "asset://v/clip/0"
        assert pairs[Task.T2I]["target"]["image"] == "asset://v/frame/1"
        assert {task: pair["instruction"] for task, pair in pairs.items()} == dict(INSTRUCTIONS)

    def test_t2t_uses_two_captions_that_t2v_does_not(self):
        for seed in range(20):
            pairs = self.by_task(annotation("v"), seed)
            t2v, t2t = pairs[Task.T2V], pairs[Task.T2T]
            used = {t2v["query"]["text"], t2t["query"]["text"], t2t["target"]["text"]}
            assert len(used) == 3

    @pytest.mark.parametrize(("n", "t2t"), [(1, 1), (2, 1), (3, 1), (4, 0), (5, 0)])
    def test_more_captions_a_video_leave_t2t_what_is_over(self, n, t2t):
        available = listed([annotation("v")], captions_per_video=n)
        queries = [pair["query"]["text"] for task, pair in available if task is Task.T2V]
        texts = [
            pair[side]["text"] for task, pair in available if task is Task.T2T for side in ("query", "target")
        ]
        assert (len(queries), len(texts)) == (n, 2 * t2t)
        assert len(set(queries + texts)) == n + 2 * t2t
        first = self.by_task(annotation("v"))[Task.T2V]
        assert dict(reversed(available))[Task.T2V] == first  # more captions add pairs, and change none

    def test_every_caption_style_is_drawn_about_equally(self):
        styles = Counter(self.by_task(annotation(f"v{i}"))[Task.T2V]["style"] for i in range(500))
        assert set(styles) == set(STYLES)
        assert all(abs(n - 100) < 27 for n in styles.values())  # three standard deviations

    def test_what_a_video_lacks_makes_no_pair(self):
        row = annotation("v", frames=0, clips=0, queries=False) | {"frame_captions": []}
        assert set(self.by_task(row)) == {Task.T2V, Task.T2T}

    @pytest.mark.parametrize(
        ("style", "profile", "long", "domain"),
        [
            ("short", "spatial", False, "CG"),
            ("rich", "spatial", False, "FG-S"),
            ("rich", "temporal", False, "FG-T"),
            ("rich", "other", False, "CG"),
            ("rich", "temporal", True, "LC"),
            ("partial", "temporal", True, "PR"),
            ("abstract", "temporal", True, "CG"),
        ],
    )
    def test_domains(self, style, profile, long, domain):
        assert caption_domain(style, profile, long=long) == domain

    def test_long_videos_are_long_context(self):
        rows = [annotation(f"v{i}", duration=30.0) for i in range(30)]
        pairs = [self.by_task(row)[Task.T2V] for row in rows]
        domains = {pair["style"]: pair["domain"] for pair in pairs}
        assert domains["rich"] == "LC"

    def test_a_batch_has_the_pairs_of_each_of_its_rows(self):
        none = annotation("none", frames=0, clips=0, queries=False) | {"captions": [], "frame_captions": []}
        rows = [
            annotation("a"),
            none,
            annotation("b", frames=0, duration=30.0),
            annotation("c", clips=2, queries=False),
        ]
        alone = [listed([row]) for row in rows]
        assert alone[1] == []
        of_task = [
            [pair for pairs in alone for task, pair in pairs if task is wanted] for wanted in UVRD_TASKS
        ]
        together = listed(rows)
        assert [[pair for task, pair in together if task is wanted] for wanted in UVRD_TASKS] == of_task
        whole = pa.RecordBatch.from_pylist(rows, schema=ANNOTATION_SCHEMA).select(COLUMNS)
        sliced = candidates(whole.slice(2), 1, AssembleConfig())
        assert {task: pairs.to_pylist() for task, pairs in sliced.items()} == {
            task: [pair for pairs in alone[2:] for some, pair in pairs if some is task] for task in UVRD_TASKS
        }

    def test_the_id_is_that_of_task_query_and_target(self):
        query = {"text": "a", "image": None, "video": None}
        target = {"text": None, "image": None, "video": "asset://v/video"}
        ids = {
            id_of(Task.T2V, query, target),
            id_of(Task.T2T, query, target),
            id_of(Task.T2V, target, query),
            id_of(Task.T2V, {**query, "text": "b"}, target),
        }
        assert len(ids) == 4
        assert id_of(Task.T2V, dict(reversed(query.items())), target) in ids

    def test_the_id_is_a_hash_of_json(self):
        query = {"text": 'für "A"\\\n\x01\u2028', "image": None, "video": None}
        target = {"text": None, "image": "asset://v/frame/0", "video": None}
        written = json.dumps(["T2I", query, target], sort_keys=True, ensure_ascii=False)
        assert id_of(Task.T2I, query, target) == hashlib.sha256(written.encode()).hexdigest()[:32]

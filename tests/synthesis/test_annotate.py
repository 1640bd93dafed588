"""One pass of all four prompts over a video, and the counts and rejects that it leaves."""

import json
import threading
from concurrent.futures import Future
from pathlib import Path

import pyarrow as pa
import pytest

from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA
from gve_ray.stage import REJECT_SCHEMA, BrokenWorker, Reject, Undone
from gve_ray.store import AssetReader, Store
from gve_ray.synthesis.annotate import Annotator, settle_parts
from gve_ray.synthesis.captioner import Completion, Stopped
from gve_ray.synthesis.config import CaptionerConfig, EnrichConfig, ExtendConfig
from tests.synthesis.scripted import CAPTIONS, CLIP_QUERY, IMAGE_QUERY, Scripted, asset_row, good

BAD = Completion('{"query": "A dog."}', "stop")


def annotator(folder: Path, rows, script=good, generator=None, **changes) -> tuple[Annotator, Scripted]:
    uri = str(folder / "assets.lance")
    Store(uri, ASSET_SCHEMA).create().append(pa.Table.from_pylist(rows, schema=ASSET_SCHEMA))
    generator = generator or Scripted(script)
    arguments = {
        "assets": AssetReader(uri),
        "captioner": CaptionerConfig(model="scripted", max_attempts=2),
        "enrich": EnrichConfig(),
        "extend": ExtendConfig(),
        "seed": 1,
        "make_generator": lambda config, threads, seed: generator,
    }
    return Annotator(**(arguments | changes)), generator


def only(prompt_id, completion):
    """Good answers to all but one prompt."""
    return lambda question, sampling: (
        completion if question.prompt_id == prompt_id else good(question, sampling)
    )


def call(worker, *ids):
    return worker([{"video_id": item} for item in ids])


def test_a_row_holds_every_prompts_texts_and_how_they_came_about(tmp_path):
    worker, _ = annotator(tmp_path, [asset_row("v", clips=2)])
    (row,) = call(worker, "v")
    assert pa.Table.from_pylist([row], schema=ANNOTATION_SCHEMA).to_pylist() == [row]
    assert [item["text"] for item in row["captions"]] == list(CAPTIONS.values())
    assert len(row["frame_captions"]) == 5
    assert [item["text"] for item in row["composed_image"]] == [IMAGE_QUERY]
    assert [item["text"] for item in row["composed_clip"]] == [CLIP_QUERY]
    assert row["clip_spans"] == [{"start": 1.0, "end": 3.0}, {"start": 2.0, "end": 4.0}]
    assert (row["duration"], row["reference_timestamps"]) == (5.0, [1.0, 2.0])
    prompts_and_refs = [(item["prompt_id"], item["ref"]) for item in row["generations"]]
    assert [prompt for prompt, _ in prompts_and_refs] == [
        "video_captions", "frame_captions", "composed_image", "composed_clip",
    ]  # fmt: skip
    assert prompts_and_refs[0][1] == "asset://v/video"
    assert {ref for prompt, ref in prompts_and_refs if prompt == "composed_image"} == {
        row["composed_image"][0]["ref"]
    }


def test_results_keep_the_order_of_rows_and_do_not_depend_on_the_batch(tmp_path):
    rows = [asset_row(f"v{i}") for i in range(5)]
    worker, _ = annotator(tmp_path, rows)
    together = call(worker, "v3", "v0", "v4", "v1", "v2")
    assert [row["video_id"] for row in together] == ["v3", "v0", "v4", "v1", "v2"]
    assert together == [call(worker, item)[0] for item in ("v3", "v0", "v4", "v1", "v2")]


def test_a_video_without_captions_is_rejected_and_asked_nothing_more(tmp_path):
    worker, generator = annotator(
        tmp_path, [asset_row("v")], only("video_captions", Completion("{}", "stop"))
    )
    (result,) = call(worker, "v")
    assert isinstance(result, Reject)
    assert (result.reason, result.attempts) == ("wrong_keys", 2)
    assert [question.prompt_id for question, _ in generator.calls] == ["video_captions"] * 2


def test_a_bad_query_leaves_the_rest_of_the_row(tmp_path):
    worker, _ = annotator(tmp_path, [asset_row("v")], only("composed_clip", BAD))
    (row,) = call(worker, "v")
    assert row["composed_clip"] == []
    assert len(row["composed_image"]) == 1
    assert row["generations"][-1]["reason"] == "too_short"
    assert len(row["generations"][-1]["rejected"]) == 2


def test_shares_and_counts_of_frames_come_from_the_config(tmp_path):
    changes = {"enrich": EnrichConfig(frames=2), "extend": ExtendConfig(image_share=0.0, clip_share=0.0)}
    worker, _ = annotator(tmp_path, [asset_row("v", frames=3)], **changes)
    (row,) = call(worker, "v")
    assert len({item["ref"] for item in row["frame_captions"]}) == 2
    assert (row["composed_image"], row["composed_clip"]) == ([], [])


def test_a_broken_engine_breaks_the_worker(tmp_path):
    def broken(question, sampling):
        raise BrokenWorker("engine died")

    worker, _ = annotator(tmp_path, [asset_row("v")], broken)
    with pytest.raises(BrokenWorker):
        call(worker, "v")


def test_videos_with_open_questions_are_undone_when_no_question_can_be_answered_any_more(tmp_path):
    """The second video has its captions only; nothing is asked about the third, or about a later batch."""
    asked = []

    def answer(question, sampling):
        asked.append((question.ref.video_id, question.prompt_id))
        if question.ref.video_id == "v2" and question.prompt_id != "video_captions":
            raise Stopped("max_cost is reached")
        return good(question, sampling)

    worker, _ = annotator(tmp_path, [asset_row(f"v{i}") for i in (1, 2, 3)], answer)
    first, second = call(worker, "v1", "v2")
    assert first["video_id"] == "v1"
    assert len(first["composed_clip"]) == 1
    assert second == Undone("max_cost is reached")
    assert call(worker, "v3") == [Undone("max_cost is reached")]
    assert ("v3", "video_captions") not in asked


def test_all_videos_of_a_batch_are_asked_at_once(tmp_path):
    """Questions are submitted together: an engine that waits for five would hang otherwise."""

    class Patient(Scripted):
        waiting: list

        def submit(self, question, sampling):
            if question.prompt_id != "video_captions":
                return super().submit(question, sampling)
            future: Future = Future()
            self.waiting.append((future, good(question, sampling)))
            if len(self.waiting) == 5:
                threading.Thread(target=lambda: [f.set_result(answer) for f, answer in self.waiting]).start()
            return future

    generator = Patient()
    generator.waiting = []
    worker, _ = annotator(tmp_path, [asset_row(f"v{i}") for i in range(5)], generator=generator)
    assert len(call(worker, *[f"v{i}" for i in range(5)])) == 5


class TestSettleParts:
    def stores(self, folder, script, rows):
        worker, _ = annotator(folder, rows, script)
        annotations = Store(str(folder / "annotations.lance"), ANNOTATION_SCHEMA).create()
        done = call(worker, *[row["video_id"] for row in rows])
        annotations.append(pa.Table.from_pylist(done, schema=ANNOTATION_SCHEMA))
        return annotations, Store(str(folder / "rejects.lance"), REJECT_SCHEMA).create()

    def test_counts_videos_asked_answered_and_rejected(self, tmp_path):
        rows = [asset_row("a"), asset_row("b", clips=0), asset_row("c", frames=0)]
        annotations, rejects = self.stores(tmp_path, only("composed_image", BAD), rows)
        counts = {
            item.name: (item.n_in, item.n_out, item.n_rejected) for item in settle_parts(annotations, rejects)
        }
        assert counts == {
            "frame_captions": (2, 2, 0),
            "composed_image": (2, 0, 2),
            "composed_clip": (2, 2, 0),
        }
        left = sorted(rejects.table().to_pylist(), key=lambda row: row["video_id"])
        assert [(row["video_id"], row["stage"], row["unit"], row["reason"]) for row in left] == [
            ("a", "composed_image", "query", "no_binding"),
            ("b", "composed_image", "query", "no_binding"),
        ]
        assert len(json.loads(left[0]["scores"])["rejected"]) == left[0]["attempts"] == 2

    def test_twice_gives_the_same_counts_and_no_reject_twice(self, tmp_path):
        rows = [asset_row("a"), asset_row("b")]
        annotations, rejects = self.stores(tmp_path, only("composed_clip", BAD), rows)
        first = settle_parts(annotations, rejects)
        assert settle_parts(annotations, rejects) == first
        assert rejects.count() == 2

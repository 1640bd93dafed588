"""What vLLM is given, and what the shipped captioner makes of it in a real engine."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gve_ray.demo import tiny_vl
from gve_ray.media.video_metadata import video_metadata
from gve_ray.schema import Frames
from gve_ray.synthesis.config import CaptionerConfig
from gve_ray.synthesis.prompts import load_prompt
from gve_ray.synthesis.questions import (
    EnrichConfig,
    ExtendConfig,
    caption_question,
    frame_questions,
    query_questions,
)
from gve_ray.synthesis.vllm_captioner import engine_arguments, json_regex, model_revision, multi_modal
from tests.synthesis.scripted import CAPTIONS, asset_row


def frames(indices, *, fps=12.0, duration=5.0, total=60):
    count = len(indices)
    return Frames(
        pixels=np.zeros((count, 28, 28, 3), np.uint8),
        timestamps=np.asarray(indices) / (fps or 1.0),
        indices=np.asarray(indices),
        fps=fps,
        duration=duration,
        total_frames=total,
    )


class TestJsonRegex:
    pattern = re.compile(json_regex(load_prompt("video_captions").json_schema))

    def test_is_what_json_dumps_writes_and_no_other_spelling(self):
        assert self.pattern.fullmatch(json.dumps(CAPTIONS))
        assert self.pattern.fullmatch(
            json.dumps({**CAPTIONS, "5": "Ein Kreis, größer – 圆圈"}, ensure_ascii=False)
        )
        for other in (json.dumps(CAPTIONS, indent=1), json.dumps(CAPTIONS, separators=(",", ":"))):
            assert not self.pattern.fullmatch(other)

    def test_all_that_it_lets_through_parses(self):
        for bad in (
            'say \\"hi\\" to all',
            "two\nlines and more",
            "a tab\there and there",
            "back\\slash again",
        ):
            text = json.dumps(CAPTIONS).replace(CAPTIONS["5"], bad)
            assert not self.pattern.fullmatch(text)

    def test_keys_must_be_all_and_in_order(self):
        assert not self.pattern.fullmatch(json.dumps({"1": CAPTIONS["1"]}))
        assert not self.pattern.fullmatch(json.dumps(dict(reversed(CAPTIONS.items()))))


class TestVideoMetadata:
    def sampled_fps(self, metadata):
        """As transformers' VideoMetadata has it."""
        return len(metadata["frames_indices"]) / metadata["total_num_frames"] * metadata["fps"]

    def test_the_whole_video_keeps_its_facts(self):
        metadata = video_metadata(frames([0, 8, 17, 25, 34, 42, 51, 59]))
        assert (metadata["fps"], metadata["total_num_frames"], metadata["duration"]) == (12.0, 60, 5.0)
        assert self.sampled_fps(metadata) == pytest.approx(8 / 5)

    def test_a_clip_is_counted_from_its_own_start(self):
        # 22 frames at 12 a second are 1.83 s with eight frames in them, wherever the clip lies.
        metadata = video_metadata(frames([700 + 3 * i for i in range(8)], duration=300.0, total=3600))
        assert metadata["frames_indices"] == [0, 3, 6, 9, 12, 15, 18, 21]
        assert self.sampled_fps(metadata) == pytest.approx(8 / (22 / 12))

    def test_an_unknown_rate_counts_as_one_sampled_frame_per_second(self):
        metadata = video_metadata(frames([0, 2, 4, 7], fps=0.0, duration=0.0, total=8))
        assert (metadata["fps"], self.sampled_fps(metadata)) == (2.0, 1.0)


class TestMultiModal:
    def test_parts_have_ids_of_their_own(self):
        row = asset_row("v", frames=2, clips=2)
        image, clip = query_questions(row, 1, ExtendConfig(), [])
        arguments = [multi_modal(question) for question in (caption_question(row, 1), image, clip)]
        assert [{kind: len(items) for kind, items in prompt["multi_modal_data"].items()} for prompt in arguments] == [
            {"video": 1}, {"video": 1, "image": 1}, {"video": 2},
        ]  # fmt: skip
        ids = [
            uuid for prompt in arguments for uuids in prompt["multi_modal_uuids"].values() for uuid in uuids
        ]
        assert len(ids) == 5
        assert len(set(ids)) == 3  # the target video is the same in all three
        assert all("hash-v" in uuid and "56x84" in uuid for uuid in ids)

    def test_two_frames_of_a_video_differ_although_both_are_number_zero(self):
        questions = frame_questions(asset_row("v"), 1, EnrichConfig(frames=2))
        ids = {multi_modal(question)["multi_modal_uuids"]["image"][0] for question in questions}
        assert len(ids) == 2


class TestEngineArguments:
    config = CaptionerConfig(
        model="m", revision="r", tensor_parallel_size=2, engine_args={"max_model_len": 30000, "dtype": "half"}
    )

    def test_the_config_has_the_last_word(self):
        arguments = engine_arguments(self.config, "m", seed=3, on_cpu=False)
        assert (arguments["tensor_parallel_size"], arguments["revision"], arguments["dtype"]) == (
            2,
            "r",
            "half",
        )
        assert "enable_chunked_prefill" not in arguments

    def test_on_the_cpu_prompts_are_processed_whole(self, monkeypatch):
        monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
        arguments = engine_arguments(self.config, "m", seed=3, on_cpu=True)
        assert arguments["enable_chunked_prefill"] is False
        assert arguments["max_num_batched_tokens"] >= 30000
        assert arguments["kv_cache_memory_bytes"] == 2 * 2**30


def test_the_revision_of_a_folder_changes_with_its_weights(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"a" * 100)
    (tmp_path / "notes.txt").write_text("not the model")
    before = model_revision(str(tmp_path), None)
    (tmp_path / "notes.txt").write_text("changed")
    assert model_revision(str(tmp_path), None) == before
    (tmp_path / "model.safetensors").write_bytes(b"a" * 99 + b"b")
    assert model_revision(str(tmp_path), None) != before
    assert model_revision("someone/model", "0123abc") == "0123abc"


# A separate process, because vLLM permanently changes torch in the process it runs in.
IN_ENGINE = """
import json, sys
from concurrent.futures import Future
from gve_ray.synthesis.config import CaptionerConfig, EnrichConfig, ExtendConfig
from gve_ray.synthesis.captioner import Sampling
from gve_ray.synthesis.vllm_captioner import ModelError, VllmGenerator
from gve_ray.synthesis.questions import caption_question, frame_questions, query_questions
from tests.synthesis.scripted import asset_row

def sampling(n, **changes):
    return Sampling(**{"seed": n, "temperature": 1.0, "top_p": 1.0, "max_tokens": 32, **changes})

engine_args = {"enforce_eager": True, "dtype": "float32", "max_model_len": 1024}
try:
    VllmGenerator(CaptionerConfig(model=sys.argv[2], engine_args=engine_args))
    missing = "no error"
except ModelError as error:
    missing = str(error)
generator = VllmGenerator(CaptionerConfig(model=sys.argv[1], engine_args=engine_args))
rows = [asset_row(f"v{i}", caption="x" * 40 * i) for i in range(4)]
questions = [q for row in rows for q in (
    caption_question(row, 1), *frame_questions(row, 1, EnrichConfig()), *query_questions(row, 1, ExtendConfig(), []))]
alone = [generator.submit(q, sampling(n)).result() for n, q in enumerate(questions)]
together = [generator.submit(q, sampling(n)) for n, q in reversed(list(enumerate(questions)))]
together = [future.result() for future in together][::-1]
again = generator.submit(questions[0], sampling(99)).result()
long = caption_question(asset_row("long", caption="word " * 3000), 1)
refused = generator.submit(long, sampling(1)).result()
broken_row = asset_row("broken", frames=1)
broken_row["frames"][3] = b"no JPEG"
try:
    generator.submit(caption_question(broken_row, 1), sampling(1)).result()
    unreadable = "no error"
except OSError as error:
    unreadable = type(error).__name__
print("RESULT" + json.dumps({
    "missing": missing, "alone": [c.text for c in alone], "together": [c.text for c in together],
    "again": again.text, "refused": [refused.finish, refused.text], "unreadable": unreadable,
    "after": generator.submit(questions[0], sampling(0)).result().text,
    "revision": generator.info.revision,
}))
"""


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict:
    empty = tmp_path_factory.mktemp("no-model")
    done = subprocess.run(
        [sys.executable, "-c", IN_ENGINE, str(tiny_vl.MODEL), str(empty)],
        capture_output=True, text=True, timeout=550, check=False,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stderr[-3000:]
    found: dict = json.loads(lines[0].removeprefix("RESULT"))
    return found


# By default the kills in tests/integration show the same of the pipeline: its batches differ, its answers do not.
@pytest.mark.slow
@pytest.mark.timeout(600)  # seconds; half a minute on two idle cores
class TestInTheEngine:
    def test_answers_do_not_depend_on_what_else_is_in_the_batch(self, result):
        """Sixteen questions one by one, and all at once in another order, sampled at temperature 1."""
        assert len(result["alone"]) == 16
        assert result["alone"] == result["together"]

    def test_another_seed_says_something_else(self, result):
        assert result["again"] != result["alone"][0]

    def test_answers_follow_the_grammar_from_the_first_character(self, result):
        starts = ['{"1": "', '{"1": "', '{"query": "', '{"query": "'] * 4
        assert all(text.startswith(start) for text, start in zip(result["alone"], starts, strict=True))

    def test_what_the_engine_cannot_take_is_refused_and_it_lives_on(self, result):
        finish, why = result["refused"]
        assert finish == "refused"
        assert "1024" in why
        assert result["unreadable"] == "UnidentifiedImageError"
        assert result["after"] == result["alone"][0]

    def test_a_folder_without_a_model_is_named_with_the_fix(self, result):
        assert "captioner.model=" in result["missing"]
        assert "no-model" in result["missing"]

    def test_the_revision_is_a_fingerprint_of_the_folder(self, result):
        assert re.fullmatch(r"sha256:[0-9a-f]{16}", result["revision"])


def test_frames_at_the_budget_are_not_resized():
    """112 x 112 pixels are 8 x 8 patches; the processors' own defaults would make 28 tokens into 128."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(tiny_vl.MODEL)
    video = np.zeros((8, 112, 112, 3), np.uint8)
    metadata = {"fps": 8.0, "total_num_frames": 8, "frames_indices": list(range(8)), "duration": 1.0}
    arguments = processor(
        text="<|video_pad|>", videos=[video], video_metadata=[metadata], do_sample_frames=False
    )
    assert arguments["video_grid_thw"].tolist() == [[4, 8, 8]]
    image = processor(text="<|image_pad|>", images=[video[0]])
    assert image["image_grid_thw"].tolist() == [[1, 8, 8]]

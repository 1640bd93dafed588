"""The scores of small inputs; expected values are worked out by hand."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gve_ray.demo.plan import Entry
from gve_ray.demo.scenes import Chapter, Scene, Thing
from gve_ray.demo.score import (
    compare,
    compare_copies,
    f1_of,
    format_summary,
    score_captions,
    score_quality,
    score_synthesis,
)
from gve_ray.schema import ANNOTATION_SCHEMA, ASSET_SCHEMA
from gve_ray.stage import REJECT_SCHEMA
from gve_ray.store import Store

SCENE = Scene(
    seed=0,
    chapters=(
        Chapter(
            background="desert",
            camera="still",
            things=(
                Thing(colour="red", shape="star", size="small", column=0, row=0, motions=("right", "spin")),
                Thing(colour="blue", shape="ring", size="large", column=2, row=2, motions=("rest",)),
            ),
        ),
    ),
    width=112,
    height=112,
    fps=8.0,
    duration=1.0,
)  # ten facts: two each of colour, shape, place; motions right, spin and rest; one background


def entry(
    video_id: str, kind: str = "healthy", caption: str = "true", duplicate_of: str | None = None
) -> Entry:
    return Entry(
        video_id=video_id,
        kind=kind,
        scene=SCENE,
        caption="x",
        caption_kind=caption,
        duplicate_of=duplicate_of,
    )


def test_f1_from_counts() -> None:
    # Precision 6/8 = 3/4, recall 6/12 = 1/2, harmonic mean 2 * 3/8 / (5/4) = 3/5.
    assert f1_of(hits=6, false_alarms=2, misses=6) == pytest.approx(
        {"precision": 0.75, "recall": 0.5, "f1": 0.6}
    )
    assert f1_of(hits=0, false_alarms=0, misses=0) == {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert f1_of(hits=0, false_alarms=0, misses=3) == {"precision": 1.0, "recall": 0.0, "f1": 0.0}
    assert f1_of(hits=0, false_alarms=3, misses=0) == {"precision": 0.0, "recall": 1.0, "f1": 0.0}


def test_compare_scores_two_sets() -> None:
    assert compare("abcd", "cde") == pytest.approx({"precision": 1 / 2, "recall": 2 / 3, "f1": 4 / 7})


@pytest.mark.parametrize(
    "rejected, hits, false_alarms, misses",
    [
        ("bc", 2, 0, 0),  # the original is kept
        ("ac", 2, 0, 0),  # a copy is kept instead, which is as good
        ("abc", 2, 1, 0),  # nothing is kept, so one rejection is wrong
        ("a", 1, 0, 1),
        ("bcx", 2, 1, 0),  # x has no copy
        ("", 0, 0, 2),
    ],
)
def test_any_one_of_a_group_may_be_kept(rejected: str, hits: int, false_alarms: int, misses: int) -> None:
    expected = f1_of(hits=hits, false_alarms=false_alarms, misses=misses)
    assert compare_copies(rejected, [{"a", "b", "c"}]) == expected


def test_quality_is_scored_for_each_filter() -> None:
    entries = [
        entry("good"), entry("turned", "rotated"), entry("base"),
        entry("cut", "truncated"), entry("hollow", "zero_frame"), entry("still", "static"),
        entry("copy", "near_duplicate", duplicate_of="base"),
        entry("spam", caption="junk"), entry("spam2", caption="junk"),
        entry("liar", caption="mismatched"), entry("liar2", caption="mismatched"),
        entry("mute", caption="none"),
    ]  # fmt: skip
    rejected = {
        "rectify": {"spam"},
        "integrity": {"cut", "hollow", "turned"},
        "duplicates": {"base", "still"},
        "dynamics": set(),
        "consistency": {"liar", "spam2", "good"},
    }
    consistency = {"good": 0.2, "copy": 0.8, "liar": 0.1, "liar2": 0.5, "spam2": 0.0}
    scores = score_quality(entries, rejected, consistency)
    assert scores["broken"] == pytest.approx({"precision": 2 / 3, "recall": 1.0, "f1": 0.8})
    assert scores["junk_captions"] == pytest.approx({"precision": 1.0, "recall": 0.5, "f1": 2 / 3})
    # The static video was rejected as a copy, so it is a miss here and a false alarm there.
    assert scores["static"] == {"precision": 1.0, "recall": 0.0, "f1": 0.0}
    assert scores["near_duplicates"] == pytest.approx({"precision": 0.5, "recall": 1.0, "f1": 2 / 3})
    # True 0.2 and 0.8 against mismatched 0.1 and 0.5: three of four pairs are in order; spam2
    # counts as neither. liar and good were rejected, liar and liar2 are mismatched: one hit, one
    # false alarm, one miss.
    assert scores["mismatched"] == pytest.approx({"auc": 0.75, "f1": 0.5})


def test_a_run_on_another_corpus_is_refused() -> None:
    with pytest.raises(ValueError, match="'elsewhere'"):
        score_quality([entry("a")], {"integrity": {"elsewhere"}}, {})


CAPTIONS = {
    # Stated and true: red, star, right; blue, ring; desert. Six of six.
    "short": "A red star moves right near a blue ring in a desert.",
    # Stated: red, star, upper left, red, star, spins, all true; green (false), ring, center
    # (false); ocean (false). Seven of ten. Of the scene's ten facts: red, star, its place, spin,
    # and ring.
    "rich": "The red star is in the upper left of the frame. The red star spins. "
    "A green ring is in the center. An ocean is behind.",
}


def test_captions_are_judged_fact_by_fact() -> None:
    scores = score_captions({"v": CAPTIONS}, {"v": SCENE})
    assert scores == pytest.approx({"facts_true": 13 / 16, "facts_stated": 5 / 10})


def reject(video_id: str, stage: str, reason: str, **scores: float) -> dict[str, object]:
    return {
        "video_id": video_id, "stage": stage, "unit": "video", "reason": reason, "detail": "",
        "scores": json.dumps(scores), "attempts": 1,
    }  # fmt: skip


@pytest.fixture
def run_and_corpus(tmp_path: Path) -> tuple[Path, Path]:
    """A finished run on a corpus of nine files, with one wrong decision: `lie2` was kept."""
    run, raw = tmp_path / "run", tmp_path / "raw"
    raw.mkdir()
    entries = [
        entry("good"), entry("other"), entry("cut", "truncated"), entry("still", "static"),
        entry("copy", "near_duplicate", duplicate_of="good"), entry("spam", caption="junk"),
        entry("lie", caption="mismatched"), entry("lie2", caption="mismatched"),
        entry("mute", caption="none"),
    ]  # fmt: skip
    (raw / "truth.jsonl").write_text("".join(json.dumps(e.to_dict()) + "\n" for e in entries))
    rejects = [
        reject("spam", "rectify", "url"),
        reject("cut", "integrity", "truncated"),
        reject("good", "duplicates", "near"),
        reject("still", "dynamics", "static", motion=0.001),
        reject("lie", "consistency", "inconsistent", consistency=0.3),
        reject("mute", "captions", "invalid_json"),
        reject("spam", "captions", "too_short"),
    ]
    assets = {"copy": 0.9, "other": 0.25, "spam": None, "lie2": 0.4, "mute": None}
    texts = [
        {"ref": "asset://copy/video", "style": style, "profile": "spatial", "text": text}
        for style, text in CAPTIONS.items()
    ]
    rows = {
        "rejects": (REJECT_SCHEMA, rejects),
        "assets": (ASSET_SCHEMA, [{"video_id": i, "consistency": c} for i, c in assets.items()]),
        "annotations": (
            ANNOTATION_SCHEMA,
            [{"video_id": "copy", "captions": texts}, {"video_id": "other", "captions": []}],
        ),
    }
    for name, (schema, data) in rows.items():
        store = Store(str(run / f"{name}.lance"), schema).create()
        store.append(pa.Table.from_pylist(data, schema=schema))
    for part in (0, 1):
        folder = run / "uvrd" / "task=T2V"
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"pair_id": ["a", "b"]}), folder / f"part-{part}.parquet")
    facts = {
        "runs": [{"started": 100.0, "ended": 130.5, "error": "killed"}, {"started": 200.0, "ended": 210.0}],
        "stages": [
            {"name": "rectify", "unit": "captions", "in": 8, "out": 7, "rejected": 1, "seconds": 0.1},
            {"name": "integrity", "unit": "videos", "in": 9, "out": 8, "rejected": 1, "seconds": 4.0},
        ],
        "pairs": {"T2V": 4},
    }
    (run / "run.json").write_text(json.dumps(facts))
    return run, raw


def test_a_run_is_scored_from_its_output(run_and_corpus: tuple[Path, Path]) -> None:
    summary = score_synthesis(*run_and_corpus)
    perfect = {"precision": 1.0, "recall": 1.0, "f1": 1.0}
    assert summary == {
        "videos": 9,
        "seconds": 40.5,
        "stages": [
            {"name": "rectify", "in": 8, "out": 7, "rejected": 1},
            {"name": "integrity", "in": 9, "out": 8, "rejected": 1},
        ],
        "quality": {
            "broken": perfect,
            "junk_captions": perfect,
            "static": perfect,
            "near_duplicates": perfect,  # the copy was kept instead of its original, which is as good
            # True 0.9 and 0.25 against mismatched 0.3 and 0.4: two of four pairs are in order.
            "mismatched": {"auc": 0.5, "f1": pytest.approx(2 / 3)},
        },
        # Four videos were captioned; the reply for `mute` was not JSON, the one for `spam` was too
        # short.
        "captions": {"n": 4, "valid_json": 0.75, "facts_true": 13 / 16, "facts_stated": 0.5},
        "pairs": {"T2T": 0, "T2I": 0, "T2V": 4, "TI2V": 0, "TV2V": 0, "I2V": 0, "V2V": 0},
    }
    json.dumps(summary)


def test_the_table_shows_every_figure(run_and_corpus: tuple[Path, Path]) -> None:
    summary = format_summary(score_synthesis(*run_and_corpus))
    assert "9 videos in 40 s" in summary
    assert "integrity 8/9" in summary
    assert "broken 1.00" in summary
    assert "mismatched 0.67 (AUC 0.500)" in summary
    assert "4: valid JSON 0.750, facts true 0.812, facts stated 0.500" in summary
    assert "4: T2T 0, T2I 0, T2V 4, TI2V 0, TV2V 0, I2V 0, V2V 0" in summary


def test_an_unfinished_run_is_not_scored(run_and_corpus: tuple[Path, Path]) -> None:
    run, raw = run_and_corpus
    (run / "run.json").write_text(json.dumps({"runs": [], "stages": []}))
    with pytest.raises(ValueError, match="not finished"):
        score_synthesis(run, raw)

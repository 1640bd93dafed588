"""The plan of a corpus: shares add up, captions match their kind, the ground truth is unambiguous."""

import json
from collections import Counter
from dataclasses import asdict, replace

import pytest

from gve_ray.demo.facts import judge
from gve_ray.demo.plan import COPIES, CorpusShares, Entry, plan_corpus

SEED = 3


@pytest.fixture(scope="module")
def plan() -> list[Entry]:
    return plan_corpus(320, seed=SEED)


def test_shares_become_counts_that_add_up(plan: list[Entry]) -> None:
    kinds = Counter(e.kind for e in plan)
    captions = Counter(e.caption_kind for e in plan)
    # 320 times the default shares, rounded.
    assert kinds == {
        "static": 19, "near_duplicate": 19, "exact_duplicate": 3, "truncated": 6, "empty": 3, "zero_frame": 3,
        "one_frame": 3, "audio_only": 3, "not_a_video": 5, "corrupt": 6, "rotated": 8, "odd_size": 8,
        "healthy": 234,
    }  # fmt: skip
    assert captions == {"junk": 26, "mismatched": 19, "none": 16, "true": 259}
    survivors = [e for e in plan if e.kind in ("healthy", "rotated", "odd_size")]
    assert sum(e.caption_kind != "mismatched" for e in survivors) >= 200


def test_a_share_above_zero_means_at_least_one_file() -> None:
    assert CorpusShares(empty=0.001).counts(60)["empty"] == 1
    assert CorpusShares(empty=0.0).counts(60)["empty"] == 0


def test_impossible_shares_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shares\.static=1\.5"):
        CorpusShares(static=1.5)
    with pytest.raises(ValueError, match="n=12: these shares leave"):
        CorpusShares().counts(12)
    with pytest.raises(ValueError, match="originals of the duplicates"):
        CorpusShares(near_duplicate=0.5).counts(320)


def test_the_plan_is_a_function_of_its_arguments(plan: list[Entry]) -> None:
    assert plan_corpus(320, seed=SEED) == plan
    assert plan_corpus(320, seed=SEED + 1) != plan
    assert plan_corpus(320, seed=SEED, split="heldout") != plan


def test_only_healthy_files_have_replaced_captions(plan: list[Entry]) -> None:
    assert {e.kind for e in plan if e.caption_kind != "true"} == {"healthy"}
    assert all((e.caption is None) == (e.caption_kind == "none") for e in plan)


def test_true_captions_are_true_and_mismatched_ones_are_not(plan: list[Entry]) -> None:
    scenes = {e.video_id: e.scene for e in plan}
    for entry in plan:
        if entry.caption_kind not in ("true", "mismatched"):
            continue
        assert entry.caption is not None
        judgement = judge(entry.caption, entry.scene)
        if entry.caption_kind == "true":
            assert judgement.stated == judgement.true >= 2, entry.caption
        else:
            assert judgement.true < judgement.stated, entry.caption
            assert entry.caption_of is not None
            elsewhere = judge(entry.caption, scenes[entry.caption_of])
            assert elsewhere.true == elsewhere.stated, entry.caption


def test_each_copy_has_another_clean_original_and_all_other_scenes_differ(plan: list[Entry]) -> None:
    by_id = {e.video_id: e for e in plan}
    assert len(by_id) == len(plan)
    copied = [by_id[e.duplicate_of] for e in plan if e.duplicate_of]
    assert len({e.video_id for e in copied}) == len(copied) == sum(e.kind in COPIES for e in plan)
    assert all(e.kind == "healthy" and e.caption_kind == "true" for e in copied)
    contents = Counter(json.dumps(asdict(e.scene)["chapters"]) for e in plan if e.kind not in COPIES)
    assert max(contents.values()) == 1


def test_an_entry_survives_json(plan: list[Entry]) -> None:
    for entry in plan[:40]:
        assert Entry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry
    assert replace(plan[0], kind="corrupt").broken
    assert not replace(plan[0], kind="static").broken

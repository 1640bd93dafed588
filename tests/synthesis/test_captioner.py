"""Retries, provenance and seeds of the asker, with a scripted generator."""

import json

import pytest

from gve_ray.stage import BrokenWorker
from gve_ray.synthesis.captioner import Asker, Completion, sampling_seed
from gve_ray.synthesis.config import CaptionerConfig, EnrichConfig
from gve_ray.synthesis.questions import caption_question, frame_questions
from tests.synthesis.scripted import CAPTIONS, Scripted, asset_row, good

CONFIG = CaptionerConfig(model="scripted", max_attempts=3, temperature=0.1, retry_temperature=0.6)


def ask(script, config=CONFIG):
    generator = Scripted(script)
    asker = Asker(generator=generator, config=config, seed=7)
    return asker.ask(caption_question(asset_row("v"), 7)).result(timeout=5), generator, asker


def in_turn(*texts, finish="stop"):
    answers = iter(texts)
    return lambda question, sampling: Completion(next(answers), finish)


def test_a_good_answer_is_asked_for_once():
    answer, generator, _ = ask(good)
    assert answer.texts == CAPTIONS
    assert (answer.attempts, answer.rejected, len(generator.calls)) == (1, (), 1)


def test_bad_answers_are_asked_again_with_other_seeds_and_recorded():
    bad = json.dumps({**CAPTIONS, "1": "Too short."})
    answer, generator, asker = ask(in_turn("no JSON", bad, json.dumps(CAPTIONS)))
    assert answer.texts == CAPTIONS
    assert answer.attempts == 3
    seeds = [sampling.seed for _, sampling in generator.calls]
    assert len(set(seeds)) == 3
    assert [sampling.temperature for _, sampling in generator.calls] == [0.1, 0.6, 0.6]
    record = asker.record(answer)
    assert [(attempt["reason"], attempt["seed"], attempt["answer"]) for attempt in record["rejected"]] == [
        ("invalid_json", seeds[0], "no JSON"),
        ("too_short", seeds[1], bad),
    ]
    assert record["seed"] == seeds[2]
    assert (record["attempts"], record["reason"], record["prompt_id"]) == (3, None, "video_captions")
    assert (record["model"], record["revision"]) == ("scripted", "1")
    assert json.loads(record["sampling"]) == {
        "temperature": 0.1, "retry_temperature": 0.6, "top_p": 0.9, "max_tokens": 1024,
    }  # fmt: skip
    assert json.loads(record["slots"])["caption"] == "a red circle"


def test_tries_are_bounded_and_the_reject_says_why():
    answer, generator, asker = ask(lambda question, sampling: Completion("{}", "stop"))
    assert answer.texts is None
    assert len(generator.calls) == CONFIG.max_attempts
    reject = answer.reject()
    assert (reject.reason, reject.attempts) == ("wrong_keys", 3)
    assert len(reject.scores["rejected"]) == 3
    assert asker.record(answer)["reason"] == "wrong_keys"


def test_an_answer_cut_at_max_tokens_is_truncated_even_if_it_parses():
    answer, _, _ = ask(in_turn(*[json.dumps(CAPTIONS)] * 3, finish="length"))
    assert answer.reject().reason == "truncated"


def test_a_refused_prompt_is_not_asked_again():
    answer, generator, _ = ask(in_turn("longer than the context", finish="refused"))
    assert len(generator.calls) == 1
    assert str(answer.reject().detail) == "refused: longer than the context"


def test_a_broken_engine_reaches_whoever_waits():
    def broken(question, sampling):
        raise BrokenWorker("engine died")

    with pytest.raises(BrokenWorker, match="engine died"):
        ask(broken)


def test_an_error_in_a_check_reaches_whoever_waits():
    question = caption_question(asset_row("v"), 7)
    object.__setattr__(question, "check", lambda texts: [][0])
    asker = Asker(generator=Scripted(), config=CONFIG, seed=7)
    with pytest.raises(IndexError):
        asker.ask(question).result(timeout=5)


def test_seeds_depend_on_everything_that_tells_two_tries_apart():
    row, other = asset_row("v"), asset_row("w")
    frames = frame_questions(row, 7, EnrichConfig(frames=2))
    questions = [caption_question(row, 7), caption_question(other, 7), *frames]
    seeds = {sampling_seed(seed, q, n) for q in questions for seed in (1, 2) for n in (1, 2)}
    assert len(seeds) == len(questions) * 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert sampling_seed(1, questions[0], 1) == sampling_seed(1, caption_question(asset_row("v"), 7), 1)

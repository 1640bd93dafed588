"""The support of captions from the probabilities of their tokens, and what the asker does with it."""

import json
import math

import pytest

from gve_ray.synthesis.audit import ScoredToken, last_tokens, spell, support
from gve_ray.synthesis.captioner import Asker, Refused
from gve_ray.synthesis.config import AuditConfig, CaptionerConfig
from gve_ray.synthesis.questions import caption_question, texts_of
from tests.synthesis.scripted import CAPTIONS, Scripted, asset_row


def tokens(text: str, probabilities: dict[str, float]) -> list[ScoredToken]:
    """One token per word or space between words; words without a probability are certain."""
    pieces = [piece for word in text.split(" ") for piece in (word, " ")][:-1]
    return [ScoredToken(piece, math.log(probabilities.get(piece, 1.0))) for piece in pieces]


class Reader(Scripted):
    """Doubts the given words with the video, and knows nothing of them without it."""

    def __init__(self, doubts: dict[str, float]) -> None:
        super().__init__()
        self._doubts = doubts
        self.read: list[tuple[int, str]] = []

    def score(self, question, answer):
        from concurrent.futures import Future

        self.read.append((len(question.media), answer))
        future: Future = Future()
        unknown = dict.fromkeys(self._doubts, 0.01)
        future.set_result(tokens(answer, self._doubts if question.media else unknown))
        return future


def ask(reader: Scripted, threshold: float | None):
    config = CaptionerConfig(model="scripted")
    asker = Asker(generator=reader, config=config, seed=7, audit=AuditConfig(threshold=threshold))
    return asker, asker.ask(caption_question(asset_row("v"), 7)).result(timeout=5)


def test_the_spelling_is_that_of_the_prompts_and_spans_are_the_captions():
    captions = {"1": 'Ein "Kreis", größer', "2": "b"}
    text, spans = spell(captions)
    assert json.loads(text) == captions
    assert text == json.dumps(captions, ensure_ascii=False)
    assert text[slice(*spans["2"])] == "b"


def test_support_weights_each_token_by_what_the_video_changes():
    text, spans = spell({"1": "a red sun", "2": "so it is"})
    shown = tokens(text, {"red": 0.5, "so": 0.3})
    hidden = tokens(text, {"red": 0.1, "so": 0.3})
    # red: 0.5 ** (0.5 - 0.1); the wording "so" is as likely without the video, and counts nothing
    assert support(shown, hidden, spans) == pytest.approx({"1": 0.5**0.4, "2": 1.0})


def test_other_tokens_without_the_video_are_an_error():
    text, spans = spell({"1": "a red sun"})
    with pytest.raises(ValueError, match="other tokens"):
        support(tokens(text, {}), tokens(text, {})[1:], spans)


def test_the_last_tokens_are_those_of_the_answer():
    prompt = [ScoredToken(text, -1.0) for text in ("assistant", "\n", "{", '"a"', "}")]
    assert "".join(token.text for token in last_tokens(prompt, 5)) == '{"a"}'
    assert last_tokens(prompt, 0) == []


def test_captions_below_the_threshold_are_dropped_with_their_support():
    reader = Reader({"circle": 0.2})  # a word of captions 1 and 5; "circle," of 4 is another
    asker, answer = ask(reader, 0.9)
    expected = 0.2 ** (0.2 - 0.01)
    assert answer.support["5"] == pytest.approx(expected)
    assert "5" not in answer.texts
    assert answer.texts["2"] == CAPTIONS["2"]
    assert [count for count, _ in reader.read] == [1, 0]
    assert [text["style"] for text in texts_of(answer)] == ["rich", "abstract", "keywords"]
    record = asker.record(answer)
    assert (record["attempts"], record["reason"]) == (1, None)
    dropped = {item["answer"]: (item["reason"], item["detail"]) for item in record["rejected"]}
    assert dropped[CAPTIONS["5"]] == (
        "unsupported",
        f"unsupported: caption 5: support {expected:.3f}, below 0.9",
    )
    assert json.loads(record["sampling"])["audit"]["5"] == pytest.approx(expected, abs=1e-4)


def test_a_video_all_of_whose_captions_are_dropped_is_rejected():
    _, answer = ask(Reader(dict.fromkeys(" ".join(CAPTIONS.values()).split(), 0.3)), 0.9)
    assert answer.texts is None
    reject = answer.reject()
    assert reject.reason == "unsupported"
    assert len(reject.scores["rejected"]) == 5


def test_without_a_threshold_nothing_is_read_again():
    reader = Reader({"circle": 0.2})
    asker, answer = ask(reader, None)
    assert reader.read == []
    assert answer.texts == CAPTIONS
    assert "audit" not in json.loads(asker.record(answer)["sampling"])


def test_a_reading_that_the_engine_rejects_rejects_the_video():
    class Short(Reader):
        def score(self, question, answer):
            future = super().score(question, answer)
            future = type(future)()
            future.set_exception(Refused("prompt of 1025 tokens"))
            return future

    _, answer = ask(Short({}), 0.5)
    assert (answer.texts, answer.reject().reason) == (None, "refused")


def test_the_identity_of_a_run_without_audit_is_that_of_before():
    from gve_ray.synthesis.config import SynthesisConfig

    def identity(**changes):
        return SynthesisConfig(
            input="i", output="o", captioner=CaptionerConfig(model="m"), **changes
        ).identity()

    assert "audit" not in identity()
    assert identity(audit=AuditConfig(threshold=0.5))["audit"] == {"threshold": 0.5}

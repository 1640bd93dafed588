"""The captioner behind an endpoint: what it sends, and what it makes of each kind of failure."""

import base64
import json
from pathlib import Path

import pytest

from gve_ray import endpoint as client
from gve_ray.config import ModelResources
from gve_ray.job import PreflightError
from gve_ray.preflight import check_models
from gve_ray.preflight.checks import checks_of
from gve_ray.preflight.fit import size_pools
from gve_ray.stage import StageError
from gve_ray.synthesis.captioner import Asker, Completion, Sampling, Stopped
from gve_ray.synthesis.config import (
    AuditConfig,
    CaptionerConfig,
    EnrichConfig,
    ExtendConfig,
    SynthesisConfig,
    SynthesisResources,
)
from gve_ray.synthesis.endpoint_captioner import EndpointGenerator, Pace, request
from gve_ray.synthesis.needs import needs_of
from gve_ray.synthesis.questions import caption_question, frame_questions, query_questions
from gve_ray.synthesis.spending import FileLedger, Usage
from tests.endpoint import Reply, completion, http_endpoint
from tests.synthesis.scripted import CAPTIONS, asset_row

SAMPLING = Sampling(seed=7, temperature=0.5, top_p=0.9, max_tokens=64)
GOOD = completion(json.dumps(CAPTIONS))
PRICES = {"price_per_million_prompt_tokens": 2.0, "price_per_million_output_tokens": 10.0}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_FIRST_PAUSE", 0.0)


def generator(url: str, folder: Path, **changes) -> EndpointGenerator:
    config = CaptionerConfig(model="m", engine="openai", url=url, **changes)
    return EndpointGenerator(config, ledger=FileLedger(str(folder)))


def question(video_id: str = "v"):
    return caption_question(asset_row(video_id), 1)


def ask(asked: EndpointGenerator, video_id: str = "v") -> Completion:
    return asked.submit(question(video_id), SAMPLING).result(timeout=30)


class TestRequest:
    def test_has_the_stored_frames_and_their_times(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MY_KEY", "secret")
        row = asset_row("v")
        with http_endpoint(lambda number, body: GOOD) as endpoint:
            asked = generator(endpoint.url, tmp_path, key_variable="MY_KEY")
            asker = Asker(generator=asked, config=CaptionerConfig(model="m"), seed=1)
            answer = asker.ask(caption_question(row, 1)).result(timeout=30)
        assert answer.texts == CAPTIONS
        (sent,) = endpoint.requests
        assert (sent["path"], sent["key"], sent["model"]) == ("/v1/chat/completions", "Bearer secret", "m")
        assert (sent["temperature"], sent["top_p"], sent["max_tokens"]) == (0.7, 0.9, 1024)
        assert sent["seed"] == answer.seed
        system, user = sent["messages"]
        assert "video search engine" in system["content"]
        video, text = user["content"]
        head, *frames = video["video_url"]["url"].split(",")
        assert head == "data:video/jpeg;base64"
        assert [base64.b64decode(frame) for frame in frames] == row["frames"]
        options = sent["media_io_kwargs"]["video"]
        assert (options["fps"], options["frames_indices"]) == (12.0, row["indices"])
        assert "a red circle" in text["text"]
        schema = sent["response_format"]["json_schema"]["schema"]
        assert schema["required"] == list(CAPTIONS)
        record = asker.record(answer)
        host = endpoint.url.removeprefix("http://").removesuffix("/v1")
        assert (record["model"], record["revision"]) == ("m", host)

    @pytest.mark.parametrize(
        "video_as,target,clip,short", [("video", 1, 1, 7), ("images", 8, 8, 7)], ids=["video", "images"]
    )
    def test_parts_of_all_questions(self, video_as, target, clip, short):
        """A request has one set of times, those of the target. So a clip with fewer frames is images."""
        row, other = asset_row("v"), asset_row("w")
        for column in ("frames", "timestamps", "indices"):
            other["clips"][0][column] = other["clips"][0][column][:7]
        config = CaptionerConfig(model="m", engine="openai", url="http://a/v1", video_as=video_as)
        image, composed = query_questions(row, 1, ExtendConfig(), [])
        _, shorter = query_questions(other, 1, ExtendConfig(), [])
        frame = frame_questions(row, 1, EnrichConfig())[0]
        questions = [caption_question(row, 1), frame, image, composed, shorter]
        bodies = [request(config, item, SAMPLING) for item in questions]
        sent = [
            [part["type"].removesuffix("_url") for part in body["messages"][1]["content"]] for body in bodies
        ]
        shown = target * [video_as.removesuffix("s")]
        both = ["text", *shown, "text"]
        assert sent == [
            [*shown, "text"],
            ["image", "text"],
            [*both, "image", "text"],
            [*both, *clip * [video_as.removesuffix("s")], "text"],
            [*both, *short * ["image"], "text"],
        ]
        times = [body.get("media_io_kwargs", {}).get("video", {}).get("frames_indices") for body in bodies]
        expected = row["indices"] if video_as == "video" else None
        assert times == [expected, None, expected, expected, expected]

    def test_bytes_that_are_no_jpeg_are_an_error_of_the_row(self, tmp_path):
        row = asset_row("v")
        row["frames"][3] = b"no JPEG"
        with (
            http_endpoint(lambda number, body: GOOD) as endpoint,
            pytest.raises(OSError, match="cannot identify image"),
        ):
            generator(endpoint.url, tmp_path).submit(caption_question(row, 1), SAMPLING).result(timeout=30)
        assert endpoint.requests == []


class TestAnswers:
    @pytest.mark.parametrize(
        "reply,expected",
        [
            (completion("half", finish="length"), Completion("half", "length")),
            (completion(None), Completion("", "stop")),
            (completion(None, refusal="I will not"), Completion("I will not", "refused")),
            (completion("", finish="content_filter"), Completion("content_filter", "refused")),
        ],
        ids=["length", "empty", "refusal", "filter"],
    )
    def test_forms_of_answers(self, reply, expected, tmp_path):
        with http_endpoint(lambda number, body: reply) as endpoint:
            assert ask(generator(endpoint.url, tmp_path)) == expected

    def test_a_refused_response_format_is_not_sent_again(self, tmp_path):
        def answer(number, body):
            if "response_format" in body:
                return Reply(400, b'{"error": {"message": "response_format: not supported"}}')
            return GOOD

        with http_endpoint(answer) as endpoint:
            asked = generator(endpoint.url, tmp_path)
            assert [ask(asked).finish for _ in range(3)] == ["stop"] * 3
        assert ["response_format" in sent for sent in endpoint.requests] == [True, False, False, False]


class TestAudit:
    """The answers are those of vLLM's server: each position of the prompt has the log-probability of its token."""

    def reading(self, answer: str, logprob: float) -> Reply:
        words = ["user", *answer.replace(" ", " \0").split("\0")]
        positions = [None, *({"7": {"decoded_token": word, "logprob": logprob, "rank": 1}} for word in words)]
        reply = json.loads(GOOD.body) | {"prompt_logprobs": positions}
        return Reply(body=json.dumps(reply).encode())

    def test_captions_are_read_with_the_video_and_without(self, tmp_path):
        def answer(number, body):
            if "prompt_logprobs" not in body:
                return GOOD
            shown = any(part["type"] == "video_url" for part in body["messages"][1]["content"])
            return self.reading(body["messages"][-1]["content"], -0.1 if shown else -5.0)

        with http_endpoint(answer) as endpoint:
            asked = generator(endpoint.url, tmp_path)
            audit = AuditConfig(threshold=0.3)
            asker = Asker(generator=asked, config=CaptionerConfig(model="m"), seed=1, audit=audit)
            done = asker.ask(question()).result(timeout=30)
        texts = [body for body in endpoint.requests if "prompt_logprobs" in body]
        assert len(texts) == 2
        for body in texts:
            assert (body["continue_final_message"], body["add_generation_prompt"], body["max_tokens"]) == (
                True, False, 1,
            )  # fmt: skip
            assert json.loads(body["messages"][-1]["content"]) == CAPTIONS
        assert "1" in done.texts  # its 10 words cost 10 * 0.1 * (0.90 - 0.01)
        assert "2" not in done.texts  # 101 words
        assert asked._ledger.usage().answers == 3

    @pytest.mark.parametrize(
        "reply", [GOOD, Reply(status=400, body=b'{"error": "unknown field prompt_logprobs"}')]
    )
    def test_an_endpoint_without_probabilities_ends_the_job(self, reply, tmp_path):
        with (
            http_endpoint(lambda number, body: reply) as endpoint,
            pytest.raises(Stopped, match=r"audit\.threshold"),
        ):
            generator(endpoint.url, tmp_path).score(question(), json.dumps(CAPTIONS)).result(timeout=30)


class TestFailures:
    def test_a_failure_that_passes_rejects_nothing(self, tmp_path):
        bad = [
            Reply(429, headers={"Retry-After": "0"}),
            Reply(500),
            Reply(status=0),
            Reply(body=b"{"),
            Reply(body=b"{}"),
        ]
        with http_endpoint(lambda number, body: [*bad, GOOD][number]) as endpoint:
            assert ask(generator(endpoint.url, tmp_path)).finish == "stop"

    @pytest.mark.parametrize("status", [429, 500, 503, 0])
    def test_a_failure_that_stays_ends_the_job_and_rejects_nothing(self, status, tmp_path):
        with http_endpoint(lambda number, body: Reply(status)) as endpoint:
            asked = generator(endpoint.url, tmp_path)
            with pytest.raises(Stopped, match=r"captioner.url=.*no answer to 8 attempts"):
                ask(asked)
            sent = len(endpoint.requests)
            with pytest.raises(Stopped, match="no answer to 8 attempts"):
                ask(asked)
        assert sent == client.ATTEMPTS
        assert len(endpoint.requests) == sent  # nothing more is asked

    def test_only_a_question_that_fails_while_others_are_answered_is_refused(self, tmp_path):
        """The video "bad" makes the server fail each time; the others are answered between its attempts."""
        others = []

        def answer(number, body):
            if "bad" not in str(body["messages"]):
                return GOOD
            others.append(asked.submit(question(f"v{number}"), SAMPLING).result(timeout=30))
            return Reply(500, b"assertion failed")

        bad = caption_question(asset_row("bad", caption="bad"), 1)
        with http_endpoint(answer) as endpoint:
            asked = generator(endpoint.url, tmp_path)
            refused = asked.submit(bad, SAMPLING).result(timeout=30)
        assert refused.finish == "refused"
        assert "HTTP 500: assertion failed" in refused.text
        assert [other.finish for other in others] == ["stop"] * client.ATTEMPTS

    @pytest.mark.parametrize(
        "status,option",
        [(401, "key_variable='OPENAI_API_KEY'"), (403, "key_variable"), (402, "key_variable"),
         (404, "url=.*captioner.model='m'"), (302, "url=")],
    )  # fmt: skip
    def test_an_endpoint_that_denies_everything_ends_the_job_and_names_the_option(
        self, status, option, tmp_path
    ):
        with (
            http_endpoint(lambda number, body: Reply(status, b"no")) as endpoint,
            pytest.raises(Stopped, match=rf"captioner\.{option}.*HTTP {status}"),
        ):
            ask(generator(endpoint.url, tmp_path))
        assert len(endpoint.requests) == 1

    def test_a_refused_question_is_a_reject_with_the_reason(self, tmp_path):
        replies = [GOOD, *[Reply(400, b"prompt too long")] * 20]
        with http_endpoint(lambda number, body: replies[number]) as endpoint:
            asked = generator(endpoint.url, tmp_path)
            ask(asked)
            refused = [ask(asked) for _ in range(20)]
        assert {item.finish for item in refused} == {"refused"}
        assert "HTTP 400: prompt too long" in refused[0].text

    def test_an_endpoint_that_refuses_all_questions_ends_the_job(self, tmp_path):
        with http_endpoint(lambda number, body: Reply(400, b"unknown field top_p")) as endpoint:
            asked = generator(endpoint.url, tmp_path)
            first = [ask(asked) for _ in range(7)]
            with pytest.raises(Stopped, match=r"refuses all questions .*unknown field top_p"):
                ask(asked)
        assert {item.finish for item in first} == {"refused"}

    def test_an_endpoint_that_takes_no_times_of_frames_ends_the_job_with_the_fix(self, tmp_path):
        with (
            http_endpoint(lambda number, body: Reply(400, b"media_io_kwargs are disabled")) as endpoint,
            pytest.raises(Stopped, match=r"--trust-request-mm-kwargs, or set captioner.video_as to images"),
        ):
            ask(generator(endpoint.url, tmp_path))


class TestCost:
    def test_no_question_is_asked_once_the_limit_is_reached_also_in_a_later_run(self, tmp_path):
        # 100 prompt tokens at 2 and 10 output tokens at 10 per million: 0.0003 an answer.
        with http_endpoint(lambda number, body: GOOD) as endpoint:
            asked = generator(endpoint.url, tmp_path, max_cost=0.0006, **PRICES)
            assert [ask(asked).finish for _ in range(2)] == ["stop"] * 2
            with pytest.raises(Stopped, match=r"captioner.max_cost=0.0006: 2 answers have cost"):
                ask(asked)
            asked._ledger.save()
            with pytest.raises(Stopped, match="max_cost"):
                ask(generator(endpoint.url, tmp_path, max_cost=0.0006, **PRICES))
            assert len(endpoint.requests) == 2
            higher = generator(endpoint.url, tmp_path, max_cost=0.0009, **PRICES)
            ask(higher)
            with pytest.raises(Stopped, match="3 answers"):
                ask(higher)
        assert higher._ledger.usage() == Usage(3, 300, 30)

    def test_an_endpoint_that_counts_no_tokens_cannot_have_a_limit(self, tmp_path):
        silent = completion("{}", usage=None)
        with http_endpoint(lambda number, body: silent) as endpoint:
            assert ask(generator(endpoint.url, tmp_path)).finish == "stop"
            with pytest.raises(Stopped, match="no `usage`"):
                ask(generator(endpoint.url, tmp_path, max_cost=1.0, **PRICES))

    def test_a_damaged_file_of_spending_is_named(self, tmp_path):
        (tmp_path / "spending.json").write_text('{"answers": 1, "cost": 2}')
        with pytest.raises(StageError, match=r"spending.json: not what a run writes"):
            FileLedger(str(tmp_path))


def test_requests_keep_their_distance():
    """The turns of a pace are apart by a minute divided by the rate; one that has ended waits for none."""

    class Ended:
        def __init__(self):
            self.waits = []

        def wait(self, seconds):
            self.waits.append(seconds)

    ended = Ended()
    pace = Pace(0.6)  # one in 100 s
    for _ in range(3):
        pace.wait(ended)
    assert ended.waits == [pytest.approx(100, abs=5), pytest.approx(200, abs=5)]
    Pace(None).wait(ended)
    assert len(ended.waits) == 2


class TestConfig:
    def config(self, **changes):
        return CaptionerConfig(**({"model": "m", "engine": "openai", "url": "https://a/v1"} | changes))

    @pytest.mark.parametrize(
        "changes,message",
        [
            ({"url": None}, "openai needs a url"),
            ({"engine": "vllm"}, "others none"),
            ({"url": "ftp://a"}, "use http"),
            ({"url": "https://me:secret@a/v1"}, r"'https://\*\*\*@a/v1': leave out user, password"),
            ({"url": "https://a/v1?key=1"}, "leave out"),
            ({"engine_args": {"dtype": "half"}}, "captioner.engine_args: the engine openai takes none"),
            ({"revision": "r", "tensor_parallel_size": 2}, "revision, tensor_parallel_size"),
            ({"engine": "vllm", "url": None, "max_cost": 1.0, **PRICES}, "the engine vllm takes none"),
            ({"engine": "vllm", "url": None, "concurrency": 2}, "captioner.concurrency: the engine vllm"),
            ({"max_cost": 1.0}, "max_cost=1.0: needs price_per_million"),
            ({"price_per_million_prompt_tokens": 1.0}, "give both, or none"),
            ({"requests_per_minute": 0}, "above 0"),
        ],
    )
    def test_what_does_not_fit_together_is_refused(self, changes, message):
        with pytest.raises(ValueError, match=message) as caught:
            self.config(**changes)
        assert "secret" not in str(caught.value)

    def test_limits_may_change_in_a_folder_and_the_endpoint_may_not(self):
        limits = {"concurrency": 2, "requests_per_minute": 5, "max_cost": 1.0, "key_variable": "K", **PRICES}
        assert self.config(**limits).identity() == self.config().identity()
        for changes in ({"url": "https://b/v1"}, {"video_as": "images"}, {"model": "n"}):
            assert self.config(**changes).identity() != self.config().identity()

    def test_a_folder_of_vllm_keeps_the_identity_that_it_had_before_there_were_endpoints(self):
        assert set(CaptionerConfig(model="m").identity()) == {
            "model", "revision", "tensor_parallel_size", "engine_args", "max_attempts", "temperature",
            "retry_temperature", "top_p", "max_tokens",
        }  # fmt: skip


class TestNeeds:
    def needs(self, url: str, **captioner: str):
        config = SynthesisConfig(
            input="videos",
            output="out",
            captioner=CaptionerConfig(
                model="m", engine="openai", url=url, key_variable="MY_KEY", **captioner
            ),
        )
        return needs_of(config)

    def test_an_actor_is_as_large_as_one_that_decodes(self):
        pools = self.needs("http://a/v1").workers
        nodes = [{"CPU": 8.0, "GPU": 2.0, "memory": 64.0 * 2**30}]
        media, captioner = size_pools(pools, nodes)
        assert not captioner.loads
        assert (captioner.demands, captioner.count) == (media.demands, media.count)
        assert captioner.demands == {"CPU": 1.0, "memory": 2**30}

    def test_the_endpoint_is_asked_before_the_job(self, monkeypatch):
        monkeypatch.delenv("MY_KEY", raising=False)
        with http_endpoint(lambda number, body: GOOD, models=Reply(401)) as endpoint:
            needs = self.needs(endpoint.url)
            with pytest.raises(PreflightError, match=r"captioner\.key_variable='MY_KEY': .* none is set"):
                check_models(needs)
            assert list(checks_of(needs)) == ["input", "output", "captioner.url"]
        with pytest.raises(PreflightError, match=r"captioner\.url=.*cannot connect"):
            check_models(needs)

    def test_an_actor_takes_no_gpu(self):
        with pytest.raises(ValueError, match=r"resources\.captioner\.num_gpus=1: .* needs none"):
            SynthesisConfig(
                input="videos",
                output="out",
                captioner=CaptionerConfig(model="m", engine="openai", url="http://a/v1"),
                resources=SynthesisResources(captioner=ModelResources(num_gpus=1)),
            )

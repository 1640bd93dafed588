"""The search page in a real browser, with the real service: each test acts as a user and checks the
page.
"""

import contextlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pytest
from playwright.sync_api import (
    Browser,
    Locator,
    Page,
    Route,
    expect,
)
from starlette.datastructures import Headers

from gve_ray.search.indexing_progress import FILE
from gve_ray.serving.files import PART, file_response
from tests.media.videos import Clip, render
from tests.serving.conftest import VIDEOS, Service
from tests.serving.pages import (
    CONTRAST,
    PHONE,
    WIDE,
    Visitor,
    answered,
    answering,
    expect_query,
    hand_over,
    in_looks,
    names,
    number,
    page_test,
    query_of,
    refusing,
    search,
    shown,
    until,
)

pytestmark = page_test


def test_words_find_the_right_video(
    visitor: Visitor, target: dict[str, Any], moments: list[dict[str, Any]]
) -> None:
    page = visitor.open()
    expect(page.get_by_text("Drop, paste or choose an image or a short clip.")).to_be_visible()
    expect(page.locator("#holdings")).to_have_text(f"{VIDEOS} moments can be found here.")
    search(page, target["text"])
    expect(page.get_by_role("status")).to_have_text(re.compile(rf"^{VIDEOS} moments in "))
    assert len(names(page)) == VIDEOS
    assert names(page)[0] == target["name"]
    expect_query(page, {"text": target["text"]})
    (hit,) = [hit for hit in moments if hit["uri"] == target["uri"]]
    seconds = round(hit["metadata"]["duration"])
    first = page.locator(".card").first
    expect(first.locator(".time")).to_have_text(f"0:00–{seconds // 60}:{seconds % 60:02d}")
    expect(first.locator(".caption")).to_have_text(hit["metadata"]["caption"] or "")
    expect(first.locator(".score")).to_have_text(re.compile(r"^0\.\d\d$"))
    until(page, "document.querySelector('.card .poster').naturalWidth > 0")
    scores = [float(score) for score in page.locator(".card .score").all_text_contents()]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_how_far_an_index_job_is(visitor: Visitor, server: Service) -> None:
    """A killed job leaves a file that is not renewed; a job that ends deletes it."""
    file = server.index / FILE
    progress = {"step": "embed", "done": 12, "total": 40}
    try:
        file.write_text(json.dumps({**progress, "time": time.time() - 60}))
        page = visitor.open()
        expect(page.locator("#indexing")).to_be_hidden()
        file.write_text(json.dumps({**progress, "time": time.time() + 10}))
        page = visitor.open()
        expect(page.locator("#indexing")).to_have_text("Indexing files: 12 of 40")
        assert page.locator("#indexing").evaluate(CONTRAST) >= 4.5
        file.write_text(json.dumps({**progress, "step": "check", "done": 13, "time": time.time() + 10}))
        expect(page.locator("#indexing")).to_have_text("Checking files: 13 of 40")
    finally:
        file.unlink(missing_ok=True)
    expect(page.locator("#indexing")).to_be_hidden()
    search(page, "a red ball")


def test_choices_and_links(visitor: Visitor, target: dict[str, Any]) -> None:
    """Options are sent and are part of the address; opening the address repeats the search."""
    page = visitor.open()
    sent: list[str] = []
    page.on(
        "request",
        lambda request: sent.append(request.post_data or "") if request.url.endswith("/v1/search") else None,
    )
    page.get_by_label("Look for").select_option("what happens in which order")
    assert sent == []  # nothing was searched yet
    search(page, target["text"])
    page.get_by_label("Show").select_option("24")
    page.wait_for_url("**top_k=24**")
    answered(page)
    expect_query(page, {"text": target["text"], "instruction": "order", "top_k": "24"})
    assert len(sent) == 2
    assert all("one after the other" in body for body in sent)
    assert 'name="top_k"\r\n\r\n24\r\n' in sent[-1]
    linked = visitor.open(page.url.removeprefix(visitor.url))
    answered(linked)
    assert names(linked) == names(page)
    assert linked.get_by_label("Look for").input_value() == "order"
    assert linked.get_by_label("What to find").input_value() == target["text"]
    with page.expect_response("**/v1/search"):
        page.go_back()
    answered(page)
    assert "top_k" not in query_of(page)
    expect(page.get_by_label("Show")).to_have_value("12")
    page.go_back()
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator(".card")).to_have_count(0)


def test_a_dropped_picture(visitor: Visitor, target: dict[str, Any]) -> None:
    page = visitor.open()
    hand_over(page, "drop", "still.png", "image/png", target["picture"])
    expect(page.get_by_role("status")).to_have_text("Image added. Search, or add words to it.")
    until(page, "document.querySelector('.chip img').naturalWidth > 0")
    with page.expect_request("**/v1/search") as sent:
        page.keyboard.press("Enter")  # the box has the focus
    assert (sent.value.header_value("content-type") or "").startswith("multipart/form-data")
    answered(page)
    assert names(page)[0] == target["name"]
    expect_query(page, {})
    search(page, "the same, as it moves")
    assert names(page)[0] == target["name"]
    page.get_by_role("button", name="Remove still.png").click()
    expect(page.locator(".chip")).to_have_count(0)
    search(page, "something else")
    page.go_back()  # the page keeps the file in memory
    expect(page.locator(".chip")).to_have_count(1)
    answered(page)
    assert names(page)[0] == target["name"]
    page.reload()
    expect(page.get_by_role("status")).to_contain_text("Add it again")
    assert names(page) == []


@pytest.mark.slow
def test_a_chosen_clip_and_a_pasted_picture(visitor: Visitor, target: dict[str, Any]) -> None:
    page = visitor.open()
    page.locator("#file").set_input_files(target["clip"])
    until(page, "document.querySelector('.chip video').videoWidth > 0")
    page.get_by_role("button", name="Search", exact=True).click()
    answered(page)
    assert names(page)[0] == target["name"]
    hand_over(page, "paste", "image.png", "image/png", target["picture"])
    expect(page.locator(".chip")).to_have_count(2)
    hand_over(page, "paste", "other.png", "image/png", target["picture"])
    expect(page.locator(".chip .name")).to_have_text(["other.png", "clip.mp4"])  # one of each kind
    page.get_by_role("button", name="Search", exact=True).click()
    answered(page)
    assert names(page)[0] == target["name"]


def test_files_that_are_not_sent(visitor: Visitor) -> None:
    page = visitor.open()
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url))
    status = page.get_by_role("status")
    hand_over(page, "drop", "notes.txt", "text/plain", b"words")
    expect(status).to_have_text("notes.txt is neither an image nor a video. Choose one of these.")
    hand_over(page, "drop", "none.mp4", "video/mp4", b"")
    expect(status).to_have_text("none.mp4 is empty. Choose another file.")
    page.evaluate(
        """() => {
          const dataTransfer = new DataTransfer();
          dataTransfer.items.add(new File([new Uint8Array(65 * 2 ** 20)], "film.mkv"));
          document.body.dispatchEvent(new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true }));
        }"""
    )
    expect(status).to_have_text("film.mkv makes it 65.0 MB; a search takes 64.0 MB. Cut or shrink it first.")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(status).to_have_text("Describe what to find, or add an image or a clip.")
    assert sent == []


def test_a_hit_opens_and_plays(visitor: Visitor, target: dict[str, Any]) -> None:
    page = visitor.open()
    search(page, target["text"])
    page.locator(".card .open").first.click()
    dialog = page.get_by_role("dialog", name=target["name"])
    expect(dialog).to_be_visible()
    film = "document.querySelector('#stage video')"
    until(page, f"{film}.readyState >= 2 && {film}.currentTime > 0.3")
    before = number(page, f"{film}.currentTime")
    until(page, f"{film}.currentTime > {before} + 0.3")
    assert page.evaluate(f"[{film}.muted, {film}.controls, {film}.error, {film}.videoWidth > 0]") == [
        False, True, None, True,
    ]  # fmt: skip
    expect(dialog.locator("dt", has_text="File").locator("+ dd")).to_have_text(target["uri"])
    expect(dialog.locator("dt", has_text="fingerprint").locator("+ dd")).to_have_text(
        re.compile("^[0-9a-f]{64}$")
    )
    page.keyboard.press("Escape")
    until(page, f"{film} === null")  # the close event follows after the dialog is hidden
    expect(dialog).to_be_hidden()
    expect(page.locator(".card .open").first).to_be_focused()
    page.locator(".card .open").first.click()
    page.get_by_role("button", name="Close").click()
    expect(dialog).to_be_hidden()


def test_only_the_moment_plays(visitor: Visitor, target: dict[str, Any]) -> None:
    """With the first hit set to 0.5 s to 1.2 s, a card repeats this part and the dialog stops at
    its end.
    """

    def shorten(body: dict[str, Any]) -> None:
        body["data"][0] |= {"start": 0.5, "end": 1.2}

    page = visitor.open()
    page.route("**/v1/search", answering(shorten))
    search(page, target["text"])
    expect(page.locator(".card .time").first).to_have_text("0:01–0:01")
    page.locator(".card .open").first.hover()
    page.wait_for_selector(".card.playing video")
    lowest, has_ended = page.evaluate(
        """async () => {
          const video = document.querySelector(".card video");
          let [turns, last, lowest, hasEnded] = [0, 0, Infinity, !video.muted];
          video.addEventListener("ended", () => (hasEnded = true));
          while (turns < 2) {
            const now = video.currentTime;
            if (now < last) turns++;
            lowest = Math.min(lowest, now);
            last = now;
            await new Promise(requestAnimationFrame);
          }
          return [lowest, hasEnded];
        }"""
    )
    assert lowest >= 0.4
    assert not has_ended
    page.mouse.move(0, 0)
    expect(page.locator(".card video")).to_have_count(0)
    page.locator(".card .open").first.click()
    film = "document.querySelector('#stage video')"
    for _ in range(2):
        until(
            page, f"{film}.paused && {film}.currentTime >= 1.2 && {film}.currentTime < {film}.duration - 0.2"
        )
        page.evaluate(f"{film}.currentTime = {film}.duration - 0.1")  # the user may seek beyond the end
        page.get_by_role("button", name="Play again").click()


def test_weak_matches_are_behind_a_click(visitor: Visitor, target: dict[str, Any]) -> None:
    """With the keyboard alone; how sure a match is is said in words."""
    likely = 2

    def judge(body: dict[str, Any]) -> None:
        for hit, confidence in zip(body["data"], (0.999, 0.95, 0.6, *[0.1] * VIDEOS), strict=False):
            hit |= {"confidence": confidence, "confident": confidence > 0.9 and likely > 0}

    page = visitor.open()
    page.route("**/v1/search", answering(judge))
    search(page, target["text"])
    expect(page.get_by_role("status")).to_have_text(re.compile("^2 moments in "))
    shown = page.locator(".card:visible .likelihood")
    expect(shown).to_have_text(["Very likely", "Likely"])
    expect(page.get_by_role("heading", name="No confident match")).to_be_hidden()
    page.keyboard.press("ArrowDown")
    for _ in range(VIDEOS):  # the hidden cards are skipped
        page.keyboard.press("ArrowRight")
    expect(page.locator(".card .open").nth(1)).to_be_focused()
    page.get_by_role("button", name=f"Show {VIDEOS - 2} weaker matches").focus()
    page.keyboard.press("Enter")
    expect(shown).to_have_text(["Very likely", "Likely", "Uncertain", *["Unlikely"] * (VIDEOS - 3)])
    expect(page.locator(".card .open").nth(2)).to_be_focused()
    likely = 0
    search(page, "something else")
    expect(page.get_by_role("heading", name="No confident match")).to_be_visible()
    expect(shown).to_have_count(0)
    page.get_by_role("button", name=f"Show {VIDEOS} weaker matches").click()
    expect(shown).to_have_count(VIDEOS)


def test_reranked_moments_say_where_they_were(visitor: Visitor, target: dict[str, Any]) -> None:
    ranks = [12, 2, 1, 3, 22]
    problem: str | None = None

    def rerank(body: dict[str, Any]) -> None:
        for hit, rank in zip(body["data"], ranks, strict=False):
            hit |= {"rank_before": rank, "rerank_score": 0.5}
        body["rerank"] = {"candidates": 50, "judged": 5, "problem": problem}

    page = visitor.open()
    page.route("**/v1/search", answering(rerank))
    page.get_by_label("What to find").fill(target["text"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text(re.compile("s; the best 50 reranked$"))
    was = ["was number 12", "", "was number 1", "was number 3", "was number 22", *[""] * (VIDEOS - 5)]
    expect(page.locator(".card .was")).to_have_text(was)
    expect(page.get_by_role("button", name="was number 22")).to_have_count(1)
    problem = "the time for it was over after 5 s"
    page.get_by_label("What to find").fill("something else")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text(re.compile(f"s; 5 of 50 reranked: {problem}$"))


def test_each_video_once_with_its_further_moments(visitor: Visitor, target: dict[str, Any]) -> None:
    def add_moments(body: dict[str, Any]) -> None:
        hit = body["data"][0]
        hit["moments"] = [hit | {"start": 2.0, "end": 3.0, "moments": []}]

    page = visitor.open()
    search(page, target["text"])
    expect(page.locator(".further:visible")).to_have_count(0)
    page.route("**/v1/search", answering(add_moments))
    with page.expect_request("**/v1/search") as sent:
        page.get_by_label("List").select_option("each video once")
    assert 'name="group_by"\r\n\r\nvideo\r\n' in (sent.value.post_data or "")
    answered(page)
    expect_query(page, {"text": target["text"], "group_by": "video"})
    expect(page.locator(".further:visible")).to_have_count(1)
    page.get_by_role("button", name=f"{target['name']}, 0:02 to 0:03").click()
    dialog = page.get_by_role("dialog", name=target["name"])
    expect(dialog.locator("dt", has_text="Moment").locator("+ dd")).to_have_text("0:02–0:03 (1.0 s)")


PLAYED = {
    "h264.mp4": Clip(audio=True),
    "av1.mp4": Clip(codec="libsvtav1"),
    "late.mp4": Clip(ticks=range(3000, 6000, 100), audio=True),  # sound from 0 s, picture from 3 s
    "late, silent.mp4": Clip(ticks=range(3000, 6000, 100)),
    "h264.mov": Clip(container="mov"),
    "h264.3gp": Clip(container="3gp"),
    "h264.mkv": Clip(container="matroska"),
    "late.mkv": Clip(container="matroska", ticks=range(10_000, 13_000, 100)),
    "vp9.mkv": Clip(container="matroska", codec="libvpx-vp9"),
    "vp8.webm": Clip(container="webm", codec="libvpx"),
    "av1.webm": Clip(container="webm", codec="libsvtav1"),
    "vp8.ogv": Clip(container="ogg", codec="libvpx"),
    "late.ogv": Clip(container="ogg", codec="libvpx", ticks=range(10_000, 13_000, 100)),
}
SHOWN = {
    "gif.gif": Clip(container="gif", codec="gif", pix_fmt="rgb8"),
    "webp.webp": Clip(container="webp", codec="libwebp_anim", pix_fmt="bgra"),
    "png.png": Clip(container="apng", codec="apng", pix_fmt="rgb24"),
}
NOT_PLAYED = {  # with the type that the page shows
    "mpeg4.avi": (Clip(container="avi", codec="mpeg4"), "video/vnd.avi"),
    "h264.ts": (Clip(container="mpegts"), "video/mp2t"),
    "mpeg2.mpg": (Clip(container="mpeg", codec="mpeg2video", fps=25), "video/mpeg"),
    "flv1.flv": (Clip(container="flv", codec="flv"), "video/x-flv"),
    "wmv2.wmv": (Clip(container="asf", codec="wmv2"), "video/x-ms-asf"),
    "mpeg4.mp4": (Clip(codec="mpeg4"), "video/mp4"),
    "sound alone plays.mp4": (Clip(codec="mpeg4", audio=True), "video/mp4"),
    "prores.mov": (Clip(container="mov", codec="prores_ks", pix_fmt="yuv422p10le"), "video/quicktime"),
}
CLIPS = PLAYED | SHOWN | {name: clip for name, (clip, _) in NOT_PLAYED.items()}


class Clips:
    """The files above, each rendered when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, name: str) -> Path:
        path = self.folder / name
        if not path.exists():
            path.write_bytes(render(CLIPS[name]))
        return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Clips:
    return Clips(tmp_path_factory.mktemp("clips"))


@pytest.fixture
def formats(visitor: Visitor, clips: Clips) -> Page:
    """Open the page with one moment of each file above, from 1.0 s to 1.4 s after its first frame.

    The hits of the service are changed to point at these files, and `file_response` serves them.
    """
    page = visitor.open()

    def media(route: Route) -> None:
        path = clips[unquote(route.request.url.rpartition("/")[2])]
        headers = Headers(route.request.headers)
        reply = file_response(str(path), size=path.stat().st_size, etag=path.name, headers=headers)
        route.fulfill(status=reply.status_code, headers=dict(reply.headers), body=bytes(reply.body))

    def hits(body: dict[str, Any]) -> None:
        (hit, *_) = body["data"]
        body["data"] = [
            hit
            | {
                "id": name,
                "uri": str(clips.folder / name),
                "start": first(clip) + 1.0,
                "end": first(clip) + 1.4,
            }
            | {"links": hit["links"] | {"video": f"/media/formats/{quote(name)}#t=0"}}
            for name, clip in CLIPS.items()
        ]

    page.route("**/media/formats/*", media)
    page.route("**/v1/search", answering(hits))
    search(page, "anything")
    return page


def first(clip: Clip) -> float:
    """Return the time of the first frame of a clip, in seconds."""
    return clip.ticks[0] / 1000 if clip.ticks else 0.0


@contextlib.contextmanager
def opened(page: Page, name: str) -> Iterator[Locator]:
    """Open the dialog of the moment whose file has this name, and close it after the block."""
    page.locator(".card .open").filter(has=page.get_by_text(name, exact=True)).click()
    dialog = page.get_by_role("dialog", name=name)
    expect(dialog).to_be_visible()
    yield dialog
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()


@pytest.mark.parametrize(
    "names",
    [
        ["h264.mp4", "late.mkv", "vp8.webm", "gif.gif", "mpeg4.avi"],
        pytest.param(list(CLIPS), id="all", marks=pytest.mark.slow),
    ],
    ids=len,
)
def test_each_format_is_played_or_offered(formats: Page, names: list[str]) -> None:
    """Formats that the browser supports are played with correct times; others get a poster and a
    download link.
    """
    film = "document.querySelector('#stage video')"
    for name, clip in ((name, PLAYED[name]) for name in names if name in PLAYED):
        with opened(formats, name) as dialog:
            video = dialog.locator("video")
            # currentTime is that of the sound, which is behind the pictures at first; 13 is the last of the moment.
            until(formats, f"{film}.paused && {film}.currentTime > {first(clip) + 1.1}")
            assert shown(video) >= 13, name
            video.evaluate("(video, seconds) => { video.currentTime = seconds; }", first(clip) + 2.05)
            deadline = time.monotonic() + 30
            while shown(video) != 20:
                assert time.monotonic() < deadline, name
                formats.wait_for_timeout(20)
            expect(dialog.locator("#note")).to_be_hidden()
    for name in (name for name in names if name in SHOWN):
        with opened(formats, name) as dialog:
            expect(dialog.locator("#note-text")).to_have_text(
                "This is an animated image, which plays only as a whole. The moment is 0:01–0:01 of it."
            )
            expect(dialog.get_by_role("img", name=name)).to_have_js_property("naturalWidth", 140)
            expect(dialog.get_by_role("button", name="Play again")).to_be_hidden()
    for name, (_, kind) in ((name, NOT_PLAYED[name]) for name in names if name in NOT_PLAYED):
        with opened(formats, name) as dialog:
            expect(dialog.locator("#note-text")).to_have_text(f"This browser cannot play this file ({kind}).")
            expect(dialog.get_by_role("img", name=name)).to_have_attribute("src", re.compile("poster.jpg$"))
            expect(dialog.get_by_role("link", name="Download it")).to_be_visible()
            expect(dialog.get_by_role("button", name="Play again")).to_be_hidden()


@pytest.mark.slow
def test_a_download_is_whole(formats: Page, clips: Clips) -> None:
    name = "mpeg4.avi"
    data = clips[name].read_bytes() + bytes(PART)  # larger than one reply
    clips[name].write_bytes(data)
    with opened(formats, name) as dialog, formats.expect_download() as download:
        dialog.get_by_role("link", name="Download it").click()
        expect(dialog.locator("#note-text")).to_have_text("Downloaded.")
    assert download.value.suggested_filename == name
    assert download.value.path().read_bytes() == data


@pytest.mark.slow
def test_a_card_of_an_animated_image_moves(formats: Page) -> None:
    card = formats.locator(".card").filter(has=formats.get_by_text("gif.gif", exact=True))
    card.locator(".open").hover()
    expect(card).to_have_class(re.compile("playing"))
    expect(card.locator("img.player")).to_have_js_property("naturalWidth", 140)
    other = formats.locator(".card").filter(has=formats.get_by_text("mpeg4.avi", exact=True))
    other.locator(".open").hover()
    expect(formats.locator(".card img.player")).to_have_count(0)
    expect(other.locator(".player")).to_have_count(0)
    expect(other).not_to_have_class(re.compile("playing"))


@pytest.mark.slow
def test_a_deleted_file(visitor: Visitor, target: dict[str, Any], moments: list[dict[str, Any]]) -> None:
    (hit,) = [hit for hit in moments if hit["uri"] == target["uri"]]
    visitor.refused = {urlsplit(hit["links"]["video"]).path}
    page = visitor.open()
    page.route("**/media/**", refusing(410, "its file has gone since it was indexed; run gve index"))
    search(page, target["text"])
    with opened(page, target["name"]) as dialog:
        expect(dialog.locator("#note-text")).to_have_text(
            re.compile("has gone since it was indexed; run gve index")
        )
        expect(dialog.get_by_role("link", name="Download it")).to_be_hidden()


def test_more_like_this(visitor: Visitor, target: dict[str, Any], moments: list[dict[str, Any]]) -> None:
    page = visitor.open()
    search(page, target["text"])
    before = names(page)
    page.locator(".card").first.get_by_role("button", name="More like this").click()
    page.wait_for_url("**like=**")
    answered(page)
    (hit,) = [hit for hit in moments if hit["uri"] == target["uri"]]
    expect_query(page, {"like": hit["id"]})
    assert sorted(names(page)) == sorted(set(before) - {target["name"]})
    expect(page.locator(".chip .name")).to_contain_text(f"Like {target['name']}, 0:00–")
    linked = visitor.open(page.url.removeprefix(visitor.url))
    answered(linked)
    assert names(linked) == names(page)
    with page.expect_response("**/v1/search"):
        page.go_back()
    answered(page)
    assert names(page) == before
    expect(page.locator(".chip")).to_have_count(0)


def test_the_keyboard_alone(visitor: Visitor, target: dict[str, Any]) -> None:
    page = visitor.open()
    box = page.get_by_label("What to find")
    cards = page.locator(".card .open")
    expect(box).to_be_focused()  # from the start: nothing has to be clicked before typing
    page.keyboard.insert_text(target["text"])
    page.keyboard.press("Enter")
    answered(page)
    # All positions at the same moment: the header above is still shrinking.
    tops = cards.evaluate_all("(cards) => cards.map((card) => card.getBoundingClientRect().top)")
    columns = tops.count(tops[0])
    assert len(tops) == VIDEOS
    assert 2 <= columns < VIDEOS
    page.keyboard.press("ArrowDown")
    expect(cards.nth(0)).to_be_focused()
    page.wait_for_selector(".card.playing:first-child video")
    for key, at in (("ArrowRight", 1), ("ArrowDown", 1 + columns), ("ArrowLeft", columns), ("ArrowUp", 0)):
        page.keyboard.press(key)
        expect(cards.nth(at)).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(box).to_be_focused()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(cards.nth(0)).to_be_focused()
    page.keyboard.press("m")
    page.wait_for_url("**like=**")
    answered(page)
    expect(cards.nth(0)).to_be_focused()
    page.keyboard.press("/")
    page.keyboard.type("m/")  # in the search box these are ordinary letters
    expect(box).to_have_value("m/")


def test_the_filter(visitor: Visitor, moments: list[dict[str, Any]]) -> None:
    visitor.refused = {"/v1/search"}
    page = visitor.open()
    page.get_by_role("button", name="Filter", exact=True).click()
    expect(page.get_by_label("After")).to_be_focused()
    field = page.get_by_label("Filter, as JSON")
    assert "caption, duration, end, fingerprint" in (field.get_attribute("placeholder") or "")
    durations = sorted(hit["metadata"]["duration"] for hit in moments)
    field.fill(json.dumps({"duration": {"lte": durations[4]}}))
    search(page, "anything")
    expected = {Path(hit["uri"]).name for hit in moments if hit["metadata"]["duration"] <= durations[4]}
    assert set(names(page)) == expected
    assert len(expected) < VIDEOS
    error = page.locator("#filter-error")
    for text, said in (
        ('{"duration": ', "filter is not JSON"),
        ('{"colour": "red"}', "filter 'colour': no such field; there are caption, duration"),
        ("[1]", "filter: "),
    ):
        field.fill(text)
        field.press("Enter")
        expect(error).to_contain_text(said)
        expect(page.get_by_role("status")).to_contain_text("The filter cannot be used.")
        expect(field).to_be_focused()
        assert field.get_attribute("aria-invalid") == "true"
        assert names(page) == []
    field.fill('{"duration": {"gt": 1000000}}')
    field.press("Enter")
    expect(page.get_by_role("heading", name="No moment matches")).to_be_visible()
    expect(page.get_by_role("status")).to_have_text(re.compile("^0 moments in "))
    expect(error).to_be_hidden()
    page.get_by_role("button", name="Search without the filter").click()
    expect(page.locator(".card")).to_have_count(VIDEOS)
    expect_query(page, {"text": "anything"})


def test_errors_of_the_server_are_shown(visitor: Visitor) -> None:
    visitor.refused = {"/v1/search"}
    page = visitor.open()
    status = page.get_by_role("status")
    hand_over(page, "drop", "still.png", "image/png", b"\x89PNG\r\n\x1a\nbroken")
    page.keyboard.press("Enter")
    expect(status).to_contain_text("image: ")
    hand_over(page, "drop", "film.mp4", "video/mp4", bytes(4_000_000))
    page.keyboard.press("Enter")
    expect(status).to_contain_text(re.compile("send less|broke off"))
    page.get_by_role("button", name="Remove still.png").click()
    page.get_by_role("button", name="Remove film.mp4").click()
    then = refusing(503, "the queue is full", {"Retry-After": "7"})
    page.route("**/v1/search", lambda route: then(route))
    page.get_by_label("What to find").fill("a red ball")
    page.keyboard.press("Enter")
    expect(status).to_have_text("The server is busy. Try again in 7 s.")
    then = Route.abort
    page.keyboard.press("Enter")
    expect(status).to_contain_text("cannot be reached")
    then = Route.continue_
    page.keyboard.press("Enter")
    answered(page)


@pytest.mark.slow
def test_a_late_reply_is_not_shown(visitor: Visitor, target: dict[str, Any]) -> None:
    page = visitor.open()
    held: list[Route] = []
    failed: list[str | None] = []

    def hold_the_first(route: Route) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    page.route("**/v1/search", hold_the_first)
    page.on("requestfailed", lambda request: failed.append(request.failure))
    page.get_by_label("What to find").fill("a slow question")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Searching…")
    search(page, target["text"])
    shown_names = names(page)
    assert shown_names[0] == target["name"]
    assert "net::ERR_ABORTED" in failed
    held[0].fulfill(json={"object": "list", "model": "demo", "data": []})
    page.evaluate("fetch('/healthz').then((reply) => reply.text())")  # replies arrive in order
    assert names(page) == shown_names
    answered(page)


def test_the_key(visitor: Visitor, target: dict[str, Any]) -> None:
    """The test service has no key, so a route handler replies like a service with a key."""
    visitor.refused = {"/v1/search", "/v1/session"}
    page = visitor.open()
    sent_keys: list[str | None] = []
    is_open = False

    def session(route: Route) -> None:
        nonlocal is_open
        sent_keys.append(route.request.header_value("authorization"))
        is_open = sent_keys[-1] == "Bearer the-key"
        if is_open:
            route.fulfill(status=204)
        else:
            refusing(401, "send the API key")(route)

    page.route("**/v1/session", session)
    page.route(
        "**/v1/search",
        lambda route: route.continue_() if is_open else refusing(401, "send the API key")(route),
    )
    dialog = page.get_by_role("dialog", name="This server asks for a key")
    page.get_by_label("What to find").fill(target["text"])
    page.keyboard.press("Enter")
    expect(dialog).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("status")).to_contain_text("only with a key")
    page.get_by_role("button", name="Search", exact=True).click()
    page.get_by_label("Key", exact=True).fill("wrong")
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("alert")).to_contain_text("not the server's key")
    page.get_by_label("Key", exact=True).fill("the-key")
    page.get_by_role("button", name="Open", exact=True).click()
    answered(page)
    expect(dialog).to_be_hidden()
    assert names(page)[0] == target["name"]
    assert sent_keys == ["Bearer wrong", "Bearer the-key"]
    kept = "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, history.state, location.href])"
    assert "the-key" not in page.evaluate(kept)
    assert page.locator("#key-text").input_value() == ""


@pytest.mark.slow
def test_several_models(visitor: Visitor, browser: Browser) -> None:
    def add(body: dict[str, Any]) -> None:
        body["data"] += [
            body["data"][0] | {"id": "other"},
            body["data"][0] | {"id": "no-index", "index": None},
        ]

    page = browser.new_context(**WIDE).new_page()
    visitor.watch(page)
    page.route("**/v1/models", answering(add))
    page.goto(visitor.url)
    choice = page.get_by_label("Model")
    expect(choice.locator("option")).to_have_text(["demo", "other"])
    sent: list[str] = []
    page.on(
        "request",
        lambda request: sent.append(request.post_data or "") if request.url.endswith("/v1/search") else None,
    )
    page.route("**/v1/search", answering(lambda body: None))
    search(page, "a red ball")
    assert 'name="model"' not in sent[0]
    visitor.refused = {"/v1/search"}
    choice.select_option("other")
    expect(page.get_by_role("status")).to_contain_text("model 'other': not served here; use demo")
    expect_query(page, {"text": "a red ball", "model": "other"})


def test_text_from_the_server_is_never_markup(visitor: Visitor) -> None:
    markup = "<img src=x onerror=alert(1)><b>bold</b>"

    def soil(body: dict[str, Any]) -> None:
        body["data"][0]["uri"] = f"videos/{markup}".replace("/b", "b")
        body["data"][0]["metadata"] |= {"caption": markup, "note": markup, f"{markup}": 1}
        marks = [[2, 2 + len(markup)]]  # after a character of two UTF-16 units
        body["data"][0]["words"] = {"source": "subtitles", "text": f"\U0001f600 {markup} end", "marks": marks}

    page = visitor.open()
    page.route("**/v1/search", answering(soil))
    search(page, "a red ball")
    expect(page.locator(".card .caption").first).to_have_text(markup)
    expect(page.locator(".card .quote").first).to_have_text(f"subtitles\U0001f600 {markup} end")
    expect(page.locator(".card mark")).to_have_text([markup])
    page.locator(".card .open").first.click()
    expect(page.locator("#facts dt", has_text=markup)).to_have_count(1)
    expect(page.locator("#facts dd", has_text=markup)).to_have_count(1)
    assert page.locator("b", has_text="bold").count() == 0


@pytest.mark.slow
def test_less_motion(visitor: Visitor, target: dict[str, Any]) -> None:
    """With reduced motion, nothing plays automatically; moving the pointer over a card shows frames of
    its strip.
    """
    page = visitor.open(context={**WIDE, "reduced_motion": "reduce"})
    search(page, target["text"])
    picture = page.locator(".card .picture").first
    box = picture.bounding_box()
    assert box is not None
    shown = "document.querySelector('.card .strip').toDataURL()"
    page.mouse.move(box["x"] + 0.05 * box["width"], box["y"] + 40)
    page.wait_for_selector(".card.scrubbing")
    first = page.evaluate(shown)
    page.mouse.move(box["x"] + 0.95 * box["width"], box["y"] + 40)
    until(page, f"{shown} !== '{first}'")
    assert page.locator(".card video").count() == 0
    page.locator(".card .open").nth(1).focus()
    # Timers fire in the order of their times, so a preview would have started before this one fires.
    page.evaluate("new Promise((fired) => setTimeout(fired, 1000))")
    assert page.locator(".card video").count() == 0


@in_looks(("phone", "dark"))
def test_looks(visitor: Visitor, target: dict[str, Any], tmp_path: Path, scheme: str, size: str) -> None:
    """The text has enough contrast in both colour schemes and on a phone.

    Screenshots are in tmp_path.
    """
    page = visitor.open(context={**(WIDE if size == "wide" else PHONE), "color_scheme": scheme})
    page.screenshot(path=tmp_path / f"start-{size}-{scheme}.png")
    page.get_by_role("button", name="Filter", exact=True).click()
    search(page, target["text"])
    until(page, "document.querySelector('.card .poster').naturalWidth > 0")
    page.screenshot(path=tmp_path / f"results-{size}-{scheme}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    behind = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert behind == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 26)"}[scheme]
    for selector in ("#status", "#fields", ".options label", ".go", ".attach", ".card .file", ".card .caption",
                     ".card .score", ".card .more", ".card .time"):  # fmt: skip
        assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
    page.locator(".card .open").first.click()
    film = "document.querySelector('#stage video')"
    until(page, f"{film}.readyState >= 2 && {film}.currentTime > 0.3")
    page.screenshot(path=tmp_path / f"moment-{size}-{scheme}.png")
    for selector in ("#moment-file", "#facts dt", "#facts dd", "#moment-more"):
        assert page.locator(selector).first.evaluate(CONTRAST) >= 4.5, selector
    assert len(list(tmp_path.iterdir())) == 3

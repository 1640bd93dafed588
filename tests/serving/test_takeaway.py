"""What a visitor of the page takes away: a moment as a file, a link to a moment, and the list of results."""

import csv
import io
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Locator, Route, expect
from starlette.datastructures import Headers

from gve_ray.media import Limits, read_frames
from gve_ray.media.video.cut import cut
from gve_ray.serving.files import file_response
from tests.media.videos import Clip, render
from tests.serving.conftest import VIDEOS
from tests.serving.pages import (
    WIDE,
    Visitor,
    answering,
    expect_query,
    names,
    page_test,
    refusing,
    search,
    shown,
    until,
)

pytestmark = page_test


def test_a_moment_is_downloaded(visitor: Visitor, target: dict[str, Any]) -> None:
    page = visitor.open()
    search(page, target["text"])
    page.locator(".card .open").first.click()
    dialog = page.get_by_role("dialog")
    with page.expect_download() as download:
        dialog.get_by_role("button", name="Download this moment").click()
    stem = Path(target["name"]).stem
    assert re.fullmatch(rf"{re.escape(stem)} 0\.00\.00-0\.00\.\d\d\.mp4", download.value.suggested_filename)
    expect(dialog.locator("#moment-said")).to_have_text("Downloaded.")
    moment = read_frames(download.value.path(), k=4)
    assert (moment.pixels == read_frames(target["uri"], k=4).pixels).all()
    visitor.refused = {
        page.evaluate("performance.getEntriesByType('resource').at(-1).name").removeprefix(visitor.url)
    }
    page.route("**/moments/**", refusing(413, "this moment is 700 s long; download the whole file"))
    dialog.get_by_role("button", name="Download this moment").click()
    expect(dialog.locator("#moment-said")).to_have_text("this moment is 700 s long; download the whole file")


def expect_picture(video: Locator, number: int, name: str) -> None:
    """Wait until the video shows this picture, which browsers draw some time after they have decoded it."""
    deadline = time.monotonic() + 30
    while (actual := shown(video)) != number:
        assert time.monotonic() < deadline, (name, number, actual)
        video.page.wait_for_timeout(20)


FILMS = {
    "h264": Clip(frames=60, options={"g": "50", "bf": "3"}),
    "av1": Clip(frames=60, codec="libsvtav1", options={"g": "50"}),
    "vp9": Clip(frames=60, container="matroska", codec="libvpx-vp9", options={"g": "50"}),
    "vp8": Clip(frames=60, container="webm", codec="libvpx", options={"g": "50"}),
}


@pytest.mark.parametrize(
    "clips",
    [["h264"], pytest.param(["av1", "vp9", "vp8"], marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_browsers_show_the_pictures_of_the_moment(visitor: Visitor, tmp_path: Path, clips: list[str]) -> None:
    """And none of the others that the file has, from the key frame on and at the end."""
    for name in clips:
        (tmp_path / "film").write_bytes(render(FILMS[name]))
        cut(tmp_path / "film", str(tmp_path / name), 1.3, 2.7, 1 << 30, limits=Limits())

    def media(route: Route) -> None:
        path = tmp_path / route.request.url.rpartition("/")[2]
        headers = Headers(route.request.headers)
        reply = file_response(str(path), size=path.stat().st_size, etag=path.name, headers=headers)
        route.fulfill(status=reply.status_code, headers=dict(reply.headers), body=bytes(reply.body))

    page = visitor.open()
    page.route("**/moments/cut/*", media)
    for name in clips:
        page.evaluate(
            """(name) => {
              document.querySelector("video.cut")?.remove();
              const video = document.createElement("video");
              Object.assign(video, { src: `/moments/cut/${name}`, muted: true, className: "cut" });
              document.body.append(video);
            }""",
            name,
        )
        video, film = page.locator("video.cut"), "document.querySelector('video.cut')"
        until(page, f"{film}.readyState >= 2")
        expect_picture(video, 13, name)
        for seconds, number in ((0.75, 20), (1.35, 26), (0.05, 13)):
            video.evaluate("(video, seconds) => { video.currentTime = seconds; }", seconds)
            expect_picture(video, number, name)
        video.evaluate("(video) => video.play()")
        until(page, f"{film}.ended")
        expect_picture(video, 26, name)


def test_the_link_to_a_moment(visitor: Visitor, target: dict[str, Any]) -> None:
    page = visitor.open(context={**WIDE, "permissions": ["clipboard-read", "clipboard-write"]})
    search(page, target["text"])
    page.locator(".card .open").first.click()
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#moment-said")).to_have_text("Link copied.")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link == page.url
    page.keyboard.press("Escape")
    until(page, "!location.search.includes('moment')")
    expect_query(page, {"text": target["text"]})
    linked = visitor.open(link.removeprefix(visitor.url))
    dialog = linked.get_by_role("dialog", name=target["name"])
    expect(dialog).to_be_visible()
    expect(dialog.locator("dt", has_text="File").locator("+ dd")).to_have_text(target["uri"])
    expect(dialog.locator("dt", has_text="Score")).to_have_count(0)
    until(linked, "document.querySelector('#stage video').readyState >= 2")
    linked.keyboard.press("Escape")
    expect(linked.locator(".card")).to_have_count(VIDEOS)  # the search is part of the link
    expect_query(linked, {"text": target["text"]})
    visitor.refused = {"/v1/moments/demo/none"}
    unknown = visitor.open("/?moment=none")
    expect(unknown.get_by_role("status")).to_have_text(re.compile("^unknown segment: "))


def test_the_list_is_saved_as_it_is_shown(visitor: Visitor, target: dict[str, Any]) -> None:
    """Weak hits are in the files for people once they are shown."""
    page = visitor.open()
    expect(page.get_by_text("Save this list:")).to_be_hidden()
    search(page, target["text"])
    found = names(page)

    def saved(form: str) -> str:
        with page.expect_download() as download:
            page.get_by_role("button", name=form, exact=True).click()
        assert download.value.suggested_filename == f"moments.{form.lower()}"
        return download.value.path().read_text()

    rows = list(csv.DictReader(io.StringIO(saved("CSV"))))
    assert [Path(row["uri"]).name for row in rows] == found
    assert rows[0]["uri"] == target["uri"]
    assert [Path(hit["uri"]).name for hit in json.loads(saved("JSON"))["data"]] == found
    clips = re.findall(r"^\* FROM CLIP NAME: (.*)$", saved("EDL"), re.MULTILINE)
    assert clips == found
    page.get_by_label("What to find").fill("not searched yet")
    with page.expect_request("**/v1/search") as sent:
        saved("CSV")
    assert target["text"] in (sent.value.post_data or "")
    assert "min_confidence" in (sent.value.post_data or "")

    def doubt(body: dict[str, Any]) -> None:
        for hit in body["data"][2:]:
            hit |= {"confidence": 0.1, "confident": False}

    page.route("**/v1/search", answering(doubt))
    search(page, target["text"])
    page.unroute("**/v1/search")
    with page.expect_request("**/v1/search") as sent:
        saved("CSV")
    assert "min_confidence" not in (sent.value.post_data or "")  # so the service leaves weak hits out
    page.get_by_role("button", name=f"Show {VIDEOS - 2} weaker matches").click()
    with page.expect_request("**/v1/search") as sent:
        saved("CSV")
    assert 'name="min_confidence"\r\n\r\n0\r\n' in (sent.value.post_data or "")

"""Searches of the page that are more than a text: within videos and times, and composed of several parts."""

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import expect

from tests.serving.conftest import VIDEOS
from tests.serving.pages import Visitor, answered, expect_query, names, page_test, query_of, search, until

pytestmark = page_test

# The number of chips whose picture is loaded.
POSTERS = "[...document.querySelectorAll('.chip img')].filter((image) => image.naturalWidth > 0).length"

# Width, height, and the mean of each color of a picture's part, as it is shown.
# [selector, x, y, width, height], as shares of the picture
COLORS = """([selector, ...shares]) => {
  const picture = document.querySelector(selector);
  const [wide, high] = [picture.videoWidth ?? picture.naturalWidth, picture.videoHeight ?? picture.naturalHeight];
  const [x, y, width, height] = shares.map((share, i) => Math.round(share * (i % 2 ? high : wide)));
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").drawImage(picture, x, y, width, height, 0, 0, width, height);
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  const mean = (at) => data.filter((_, i) => i % 4 === at).reduce((sum, value) => sum + value, 0) / (width * height);
  return [width, height, mean(0), mean(1), mean(2)];
}"""


def test_only_in_a_video(visitor: Visitor, target: dict[str, Any], moments: list[dict[str, Any]]) -> None:
    """With the keyboard alone: by the menu of a card, and by the key v."""
    page = visitor.open()
    search(page, target["text"])
    first = page.locator(".card").first
    first.locator("summary").focus()
    page.keyboard.press("Enter")
    only = first.get_by_role("button", name="Only in this video")
    expect(only).to_be_visible()
    page.keyboard.press("Escape")
    expect(only).to_be_hidden()
    expect(first.locator("summary")).to_be_focused()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    expect(only).to_be_focused()
    page.keyboard.press("Enter")
    page.wait_for_url("**filter=**")
    answered(page)
    (hit,) = [hit for hit in moments if hit["uri"] == target["uri"]]
    assert query_of(page) == {
        "text": target["text"],
        "filter": json.dumps({"video_id": [hit["metadata"]["video_id"]]}, separators=(",", ":")),
    }
    assert names(page) == [target["name"]]
    linked = visitor.open(page.url.removeprefix(visitor.url))
    expect(linked.locator(".chip .name")).to_have_text(f"Only in {target['name']}")
    assert names(linked) == [target["name"]]
    page.get_by_role("button", name=f"Remove Only in {target['name']}").click()
    expect(page.locator(".card")).to_have_count(VIDEOS)
    expect_query(page, {"text": target["text"]})
    expect(page.locator(".chip")).to_have_count(0)
    page.go_back()
    expect(page.locator(".card")).to_have_count(1)
    page.go_back()
    expect(page.locator(".card")).to_have_count(VIDEOS)
    page.locator(".card .open").nth(4).focus()
    other = names(page)[4]
    page.keyboard.press("v")
    expect(page.locator(".chip .name")).to_have_text(f"Only in {other}")
    answered(page)
    assert names(page) == [other]


def test_before_and_after_a_time(visitor: Visitor, moments: list[dict[str, Any]]) -> None:
    page = visitor.open()
    search(page, "anything")
    page.get_by_role("button", name="Filter", exact=True).click()
    seconds = int(sorted(hit["end"] for hit in moments)[VIDEOS // 2])
    page.get_by_label("Before", exact=True).fill(f"0:{seconds:02d}")
    page.keyboard.press("Enter")
    expect(page.locator(".chip .name")).to_have_text(f"Before 0:{seconds:02d}")
    expected = {Path(hit["uri"]).name for hit in moments if hit["end"] <= seconds}
    assert 0 < len(expected) < VIDEOS
    expect(page.locator(".card")).to_have_count(len(expected))
    assert set(names(page)) == expected
    assert json.loads(query_of(page)["filter"]) == {"end": {"lte": seconds}}
    page.get_by_label("After", exact=True).fill("1:02:03")
    page.keyboard.press("Enter")
    expect(page.locator(".chip .name")).to_have_text([f"Before 0:{seconds:02d}", "After 1:02:03"])
    expect(page.get_by_role("heading", name="No moment matches")).to_be_visible()
    assert json.loads(query_of(page)["filter"]) == {"end": {"lte": seconds}, "start": {"gte": 3723}}
    before = page.url
    page.get_by_label("After", exact=True).fill("soon")
    page.keyboard.press("Enter")
    expect(page.locator("#filter-error")).to_have_text("soon is not a time. Write it as 10:00 or 1:02:03.")
    assert page.url == before
    page.get_by_label("After", exact=True).fill("")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(len(expected))
    page.get_by_label("Filter, as JSON").fill(
        '{"width": {"gt": 1, "ne": 5}, "caption": null, "segment": [0, 1]}'
    )
    page.keyboard.press("Enter")
    expect(page.locator(".chip .name")).to_have_text(
        ["width > 1", "width ≠ 5", re.compile("^caption = "), "segment = 0, 1"]
    )


def test_without(visitor: Visitor, target: dict[str, Any]) -> None:
    """With the keyboard alone; the link repeats it, and the chip removes it."""
    page = visitor.open()
    field = page.get_by_label("Without", exact=True)
    field.focus()
    page.keyboard.type("a dog")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text("Describe what to find, or add an image or a clip.")
    page.keyboard.insert_text(target["text"])
    with page.expect_request("**/v1/search") as sent:
        page.keyboard.press("Enter")
    assert 'name="without"\r\n\r\na dog\r\n' in (sent.value.post_data or "")
    answered(page)
    expect_query(page, {"text": target["text"], "without": "a dog"})
    ranked = names(page)
    linked = visitor.open(page.url.removeprefix(visitor.url))
    expect(linked.get_by_label("Without", exact=True)).to_have_value("a dog")
    answered(linked)
    assert names(linked) == ranked
    page.get_by_role("button", name="Remove Without a dog").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".chip")).to_have_count(0)
    answered(page)
    expect_query(page, {"text": target["text"]})
    expect(field).to_have_value("")
    assert sorted(names(page)) == sorted(ranked)
    assert names(page) != ranked


def test_several_examples(visitor: Visitor, target: dict[str, Any], moments: list[dict[str, Any]]) -> None:
    """Examples are added by the menu of a card and by the key a, are mixed with a text, and are part of the link."""
    page = visitor.open()
    search(page, target["text"])
    cards = page.locator(".card")
    first, second, third = names(page)[:3]
    cards.nth(0).locator("summary").click()
    button = cards.nth(0).get_by_role("button", name="Use as an example")
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(page.get_by_role("status")).to_have_text("Example added. Search, or add more.")
    for at in (1, 2):
        cards.nth(at).locator(".open").focus()
        page.keyboard.press("a")
    chips = page.locator(".chip")
    expect(chips.locator(".name")).to_have_text(
        [re.compile(f"^Like {re.escape(name)}, 0:00–") for name in (first, second, third)]
    )
    until(page, f"{POSTERS} === 3")
    page.keyboard.press("a")
    expect(chips).to_have_count(2)
    assert names(page)[:3] == [first, second, third]  # nothing is searched yet
    page.get_by_role("button", name="Search", exact=True).click()
    page.wait_for_url("**like=**")
    answered(page)
    ids = {Path(hit["uri"]).name: hit["id"] for hit in moments}
    asked = parse_qs(urlsplit(page.url).query)
    assert asked == {"text": [target["text"]], "like": [ids[first], ids[second]]}
    assert sorted(names(page)) == sorted(ids.keys() - {first, second})
    linked = visitor.open(page.url.removeprefix(visitor.url))
    answered(linked)
    assert names(linked) == names(page)
    expect(linked.locator(".chip .name")).to_have_text(chips.locator(".name").all_text_contents())
    until(linked, f"{POSTERS} === 2")
    page.get_by_role("button", name=f"Remove Like {first}").click()
    page.get_by_label("What to find").fill("")
    page.keyboard.press("Enter")
    expect(cards).to_have_count(VIDEOS - 1)
    expect_query(page, {"like": ids[second]})
    page.go_back()
    expect(chips).to_have_count(2)


def test_a_frame_as_query(visitor: Visitor, target: dict[str, Any]) -> None:
    """The whole frame by the keyboard alone, and a box that is drawn with the pointer."""
    page = visitor.open()
    film = "document.querySelector('#stage video')"
    dialog = page.get_by_role("dialog", name=target["name"])
    start = dialog.get_by_role("button", name="Search with this picture")

    def open_first() -> None:
        page.locator(".card .open").filter(has=page.get_by_text(target["name"], exact=True)).click()
        until(page, f"{film}.readyState >= 2 && {film}.currentTime > 0.3")

    search(page, target["text"])
    open_first()
    start.focus()
    page.keyboard.press("Enter")
    assert page.evaluate(f"{film}.paused && !{film}.controls")
    page.keyboard.press("Escape")  # leaves the choice, and not the dialog
    expect(dialog.get_by_role("button", name="Whole picture")).to_be_hidden()
    expect(dialog).to_be_visible()
    assert page.evaluate(f"{film}.controls")
    start.focus()
    page.keyboard.press("Enter")
    expect(dialog.get_by_role("button", name="Whole picture")).to_be_focused()
    size = page.evaluate(f"[{film}.videoWidth, {film}.videoHeight]")
    page.keyboard.press("Enter")
    expect(page.locator(".chip .name")).to_have_text(re.compile(f"^Picture of {target['name']}, 0:0\\d.jpg$"))
    answered(page)
    expect_query(page, {})
    assert names(page)[0] == target["name"]
    until(page, "document.querySelector('.chip img').naturalWidth > 0")
    assert page.evaluate(COLORS, [".chip img", 0, 0, 1, 1])[:2] == size
    open_first()
    start.click()
    box = page.locator("#stage video").bounding_box()
    assert box is not None
    scale = min(box["width"] / size[0], box["height"] / size[1])
    left, top = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2  # the centre of the picture
    expected = page.evaluate(COLORS, ["#stage video", 0.25, 0.25, 0.25, 0.25])
    page.mouse.click(left, top)  # no box
    expect(dialog).to_be_visible()
    page.mouse.move(left, top)
    page.mouse.down()
    page.mouse.move(left - 20, top - 20)
    expect(page.locator("#frame-box")).to_be_visible()
    page.mouse.move(left - scale * size[0] / 4, top - scale * size[1] / 4)
    page.mouse.up()
    expect(dialog).to_be_hidden()
    answered(page)
    until(page, "document.querySelector('.chip img').naturalWidth > 0")
    found = page.evaluate(COLORS, [".chip img", 0, 0, 1, 1])
    assert found == pytest.approx(expected, abs=3)


def test_recent_searches(visitor: Visitor, target: dict[str, Any]) -> None:
    """With the keyboard alone; they are kept when the page is opened again, until they are cleared."""
    page = visitor.open()
    menu = page.locator("#recent")
    expect(menu).to_be_hidden()
    for text in ("a ring", target["text"], "a ring"):
        search(page, text)
    page.get_by_label("Without", exact=True).fill("a dog")
    page.get_by_label("Search in").select_option("pictures only")
    page.wait_for_url("**by=picture**")
    answered(page)
    page.locator(".card").first.get_by_role("button", name="More like this").click()
    page.wait_for_url("**like=**")
    answered(page)
    page.goto(visitor.url)
    expect(page.locator("#holdings")).not_to_be_empty()
    page.get_by_label("Recent searches").first.focus()
    page.keyboard.press("Enter")
    items = menu.locator("li")
    expect(items).to_have_text(["a ring · Without a dog · pictures only", "a ring", target["text"]])
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    answered(page)
    expect_query(page, {"text": "a ring", "without": "a dog", "by": "picture"})
    expect(page.get_by_label("Without", exact=True)).to_have_value("a dog")
    expect(items.first).to_be_hidden()
    page.go_back()
    expect(page.locator("#welcome")).to_be_visible()
    kept = [{"query": f"text={i}", "name": str(i)} for i in range(20)]
    page.evaluate("(kept) => localStorage.setItem('recent searches', JSON.stringify(kept))", kept)
    search(page, "a red ball")
    expect(items).to_have_text(["a red ball", *map(str, range(19))])
    menu.locator("summary").click()
    menu.get_by_role("button", name="Clear the list").click()
    expect(menu).to_be_hidden()
    page.reload()
    answered(page)
    expect(items).to_have_text(["a red ball"])

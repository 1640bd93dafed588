"""The page is fast to appear, and usable by everybody: one request until the first paint, and axe's checks."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.serving.conftest import VIDEOS, Service
from tests.serving.pages import (
    PHONE,
    WIDE,
    Visitor,
    answering,
    hand_over,
    in_looks,
    page_test,
    refusing,
    search,
    until,
)

pytestmark = page_test

PAINTED = "performance.getEntriesByName('first-contentful-paint').length > 0"


def test_the_first_paint_needs_one_request(browser: Browser, server: Service) -> None:
    """Every request after that for the document is held, and the page is there with its style."""
    page = browser.new_context(**WIDE).new_page()
    held: list[Route] = []
    page.route(lambda address: address != f"{server.url}/", lambda route: held.append(route))
    page.goto(server.url, wait_until="commit")
    until(page, PAINTED)
    assert page.evaluate("getComputedStyle(document.querySelector('h1')).fontSize") == "46.4px"  # 2.9rem
    expect(page.get_by_text("What is seen, where, in which order.")).to_be_visible()
    modules = {route.request.url.rpartition("/")[2] for route in held}
    assert {"page.js", "moments.js", "server.js", "words.js"} <= modules  # at once, not one after another
    for route in held:
        route.continue_()
    page.unroute_all()
    page.context.close()


def check(page: Page, state: str) -> None:
    """Fail if axe finds anything in the page as it is."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    violations = axe.run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert [(state, rule["id"], [node["html"] for node in rule["nodes"]]) for rule in violations] == []


@in_looks(("wide", "light"))
def test_axe_finds_nothing(visitor: Visitor, target: dict[str, Any], size: str, scheme: str) -> None:
    """In each state of the page."""
    context = {**(WIDE if size == "wide" else PHONE), "color_scheme": scheme, "reduced_motion": "reduce"}
    visitor.refused = {"/v1/search", "/v1/session"}
    page = visitor.open(context=context)
    check(page, "start")
    page.get_by_role("button", name="Filter", exact=True).click()
    hand_over(page, "drop", "still.png", "image/png", target["picture"])
    check(page, "filter and file")
    page.get_by_role("button", name="Remove still.png").click()
    search(page, target["text"])
    until(page, "document.querySelector('.card .poster').naturalWidth > 0")
    page.locator(".card summary").first.click()
    check(page, "results and a menu")
    page.locator(".card .as-example").first.click()
    page.get_by_label("Without", exact=True).fill("a dog")
    page.locator("#recent summary").click()
    check(page, "example, something left out, and recent searches")
    page.locator(".card .open").first.click()
    until(page, "document.querySelector('#stage video').readyState >= 2")
    check(page, "moment")
    page.get_by_role("button", name="Search with this picture").click()
    check(page, "choice of a part of the picture")
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Remove Like").click()
    page.get_by_role("button", name="Remove Without").click()
    page.get_by_label("Filter, as JSON").fill("{")
    page.keyboard.press("Enter")
    expect(page.locator("#filter-error")).to_be_visible()
    check(page, "wrong filter")
    page.get_by_label("Filter, as JSON").fill('{"duration": {"gt": 1000000}}')
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No moment matches")).to_be_visible()
    check(page, "nothing")
    page.get_by_role("button", name="Search without the filter").click()
    expect(page.locator(".card")).to_have_count(VIDEOS)

    def doubt(body: dict[str, Any]) -> None:
        for hit in body["data"]:
            hit |= {"confidence": 0.1, "confident": False}
            hit["words"] = {"source": "subtitles", "text": "a red ball", "marks": [[2, 5]]}
            hit["moments"] = [{**hit, "moments": []}]

    page.route("**/v1/search", answering(doubt))
    search(page, "nothing like it")
    expect(page.get_by_role("heading", name="No confident match")).to_be_visible()
    check(page, "no confident match")
    page.get_by_role("button", name=f"Show {VIDEOS} weaker matches").click()
    check(page, "weaker matches")
    page.unroute("**/v1/search")
    page.route("**/v1/search", refusing(503, "the queue is full"))
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("status")).to_contain_text("The server is busy.")
    check(page, "error")
    page.unroute("**/v1/search")
    page.route("**/v1/search", refusing(401, "send the API key"))
    page.get_by_role("button", name="Search", exact=True).click()
    expect(page.get_by_role("dialog", name="This server asks for a key")).to_be_visible()
    check(page, "key")

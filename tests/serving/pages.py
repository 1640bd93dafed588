"""What the tests of the search page share: a visitor with a real browser, and what visitors do."""

import base64
import io
import re
import shutil
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, Route, expect

from tests.media.videos import read_number

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
WIDE = {"viewport": {"width": 1280, "height": 900}}
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}

page_test = [
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        BROWSER is None,
        reason=f"no {', '.join(BROWSERS)} on the PATH; install one that plays H.264, such as Debian's",
    ),
]


def in_looks(*by_default: tuple[str, str]) -> pytest.MarkDecorator:
    """Parametrize a test by all sizes and color schemes. by_default: those that are not slow tests."""
    looks = [(size, scheme) for size in ("wide", "phone") for scheme in ("light", "dark")]
    return pytest.mark.parametrize(
        "size,scheme",
        [pytest.param(*look, marks=[] if look in by_default else pytest.mark.slow) for look in looks],
    )


# Hands a real File to the page as a drop or a paste. [event, name, type, base64]
HAND_OVER = """([event, name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File([bytes], name, { type }));
  const options = { bubbles: true, cancelable: true };
  if (event === "paste") {
    document.body.dispatchEvent(new ClipboardEvent("paste", { ...options, clipboardData: dataTransfer }));
  } else {
    for (const kind of ["dragenter", "dragover", "drop"]) {
      document.body.dispatchEvent(new DragEvent(kind, { ...options, dataTransfer }));
    }
  }
}"""

# WCAG 2.2, 1.4.3: contrast of an element's text with what is behind it.
CONTRAST = """(element) => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (rgb) => rgb.slice(0, 3)
    .map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
  let behind = element;
  while (parts(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement ?? document.body;
  const [a, b] = [getComputedStyle(element).color, getComputedStyle(behind).backgroundColor].map(parts).map(light);
  return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
}"""

# The frame that a video shows, as PNG in base64.
SHOT = """(video) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 140, height: 112 });
  canvas.getContext("2d").drawImage(video, 0, 0, 140, 112);
  return canvas.toDataURL().split(",")[1];
}"""


class Visitor:
    """Opens pages and records their errors. refused: paths of requests that may fail."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.browser, self.url = browser, url
        self.refused: set[str] = set()
        self.troubles: list[str] = []

    def open(self, address: str = "/", *, context: dict[str, Any] | None = None) -> Page:
        """Open the page in a new browser profile and wait until its models are loaded."""
        page = self.browser.new_context(**(context or WIDE)).new_page()
        self.watch(page)
        page.goto(self.url + address)
        expect(page.locator("#holdings")).not_to_be_empty()
        return page

    def watch(self, page: Page) -> None:
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        page.on("request", self._record_request)

    def _heard(self, message: ConsoleMessage) -> None:
        path = urlsplit(message.location["url"]).path
        if message.text.startswith("Failed to load resource") and path in self.refused:
            return
        if message.type in ("error", "warning"):
            self.troubles.append(f"console: {message.text} ({message.location['url']})")

    def _record_request(self, request: Request) -> None:
        if not request.url.startswith((f"{self.url}/", f"blob:{self.url}/", "data:")):
            self.troubles.append(f"request: {request.url}")


def search(page: Page, text: str) -> None:
    """Type a text, press Enter and wait for the results."""
    page.get_by_label("What to find").fill(text)
    page.keyboard.press("Enter")
    answered(page)


def answered(page: Page) -> None:
    expect(page.get_by_role("status")).to_have_text(re.compile(r"^\d+ moments? in \d+\.\d\d s$"))


def names(page: Page) -> list[str]:
    return page.locator(".card .file").all_text_contents()


def hand_over(page: Page, event: str, name: str, kind: str, data: bytes) -> None:
    page.evaluate(HAND_OVER, [event, name, kind, base64.b64encode(data).decode()])


def query_of(page: Page) -> dict[str, str]:
    return _query(page.url)


def _query(url: str) -> dict[str, str]:
    return {name: value for name, (value,) in parse_qs(urlsplit(url).query).items()}


def expect_query(page: Page, query: dict[str, str]) -> None:
    """Wait until the address has these parts; the browser changes it some time after a key or a click."""
    page.wait_for_url(lambda url: _query(url) == query)


def number(page: Page, script: str) -> float:
    return float(page.evaluate(script))


def until(page: Page, script: str, seconds: float = 30.0) -> None:
    """Wait until a script is true.

    Playwright's wait_for_function uses eval, which the Content-Security-Policy of the page forbids.
    """
    deadline = time.monotonic() + seconds
    while not page.evaluate(script):
        assert time.monotonic() < deadline, script
        page.wait_for_timeout(20)


def answering(change: Callable[[dict[str, Any]], None]) -> Callable[[Route], None]:
    """Return a route handler that changes the replies of the service."""

    def handle(route: Route) -> None:
        answer = route.fetch()
        body = answer.json()
        change(body)
        route.fulfill(response=answer, json=body)

    return handle


def refusing(status: int, message: str, headers: dict[str, str] | None = None) -> Callable[[Route], None]:
    def handle(route: Route) -> None:
        body = {"error": {"message": message, "type": "server_error", "param": None, "code": None}}
        route.fulfill(status=status, json=body, headers=headers or {})

    return handle


def shown(video: Locator) -> int:
    """Return the number of the frame that a video shows."""
    picture = Image.open(io.BytesIO(base64.b64decode(video.evaluate(SHOT))))
    return read_number(np.asarray(picture.convert("RGB")))

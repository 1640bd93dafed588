"""The messages of the page in other languages: complete, free of leftovers, and shown to those who read them."""

import re
from typing import get_args

import pytest
from playwright.sync_api import expect

from gve_ray.search.index import Source
from tests.serving.conftest import VIDEOS
from tests.serving.pages import WIDE, Visitor, page_test

pytestmark = page_test

# The texts and labels of the document before any script changes it, and the table of translations.
TEXTS = """async () => {
  const { MESSAGES } = await import("/page/messages.js");
  const markup = await (await fetch("/")).text();
  const found = [];
  const collect = (root) => {
    const texts = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const { data, parentElement } = texts.currentNode;
      if (!parentElement?.closest("noscript, code, kbd, style")) found.push(data);
    }
    for (const name of ["aria-label", "title"]) {
      found.push(...[...root.querySelectorAll(`[${name}]`)].map((element) => element.getAttribute(name)));
    }
    for (const template of root.querySelectorAll("template")) collect(template.content);
  };
  collect(new DOMParser().parseFromString(markup, "text/html"));
  return [MESSAGES, found.map((text) => text.trim().replace(/\\s+/g, " "))];
}"""
LITERAL = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`")
CALL = re.compile(r"\b(?:t|plural)\(")


def messages_of(code: str) -> set[str]:
    """Return the literals among the arguments of `t` and `plural`, except in braces and nested calls."""
    found = set()
    for call in CALL.finditer(code):
        depth, at = 1, call.end()
        while depth:
            if literal := LITERAL.match(code, at):
                at = literal.end()
                if depth == 1 and literal[0][0] != "`":
                    found.add(literal[0][1:-1])
                continue
            depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(code[at], 0)
            at += 1
    return found


def test_every_text_is_translated_and_every_translation_used(visitor: Visitor) -> None:
    page = visitor.open()
    messages, texts = page.evaluate(TEXTS)
    modules = sorted(set(page.evaluate("performance.getEntriesByType('resource').map(({ name }) => name)")))
    modules = [
        name
        for name in modules
        if name.endswith(".js") and not name.endswith(("/messages.js", "/language.js"))
    ]
    assert len(modules) >= 4
    code = "".join(
        page.evaluate("(name) => fetch(name).then((answer) => answer.text())", name) for name in modules
    )
    spoken = {text for text in texts if re.search(r"[A-Za-z]", text)}
    spoken |= messages_of(code) | set(get_args(Source))
    assert spoken - set(messages) == set()
    assert [message for message in messages if message not in spoken and f'"{message}"' not in code] == []
    for message, translations in messages.items():
        assert set(translations) == {"de", "zh"}, message
        for translation in translations.values():
            assert set(re.findall(r"\{\w+\}", translation)) == set(re.findall(r"\{\w+\}", message)), message


@pytest.mark.parametrize(
    "locale,language,heading,count",
    [
        ("de-CH", "de", "Einen Moment finden", rf"^{VIDEOS} Momente in \d+[.,]\d\d s$"),
        pytest.param(
            *("zh-CN", "zh-Hans", "查找片段", rf"^{VIDEOS} 个片段，用时 \d+\.\d\d 秒$"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *("fi-FI", "en", "Find a moment", rf"^{VIDEOS} moments in \d+\.\d\d s$"), marks=pytest.mark.slow
        ),
    ],
)
def test_the_language_of_the_browser(
    visitor: Visitor, locale: str, language: str, heading: str, count: str
) -> None:
    page = visitor.open(context={**WIDE, "locale": locale})
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)
    assert page.evaluate("document.documentElement.lang") == language
    page.locator("#text").fill("a red ball")
    page.keyboard.press("Enter")
    expect(page.get_by_role("status")).to_have_text(re.compile(count))
    expect(page).to_have_title(f"a red ball · {heading}")


def test_numbers_are_written_as_the_reader_expects(visitor: Visitor) -> None:
    page = visitor.open(context={**WIDE, "locale": "de-DE"})
    page.locator("#text").fill("a red ball")
    page.keyboard.press("Enter")
    expect(page.locator(".card .score").first).to_have_text(re.compile(r"^-?0,\d\d$"))
    page.locator(".card .open").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.locator("dt", has_text="Länge").locator("+ dd")).to_have_text(re.compile(r"\(\d+,\d s\)"))
    expect(dialog.get_by_role("button", name="Schließen")).to_be_visible()

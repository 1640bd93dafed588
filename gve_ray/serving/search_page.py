"""The files of the search page, put together so that its first paint needs one request.

page = load_page()
page.files["index.html"], page.headers

The style sheet is part of the document, and the document names all modules, so that the browser
requests them at once instead of one after another. The Content-Security-Policy allows this one style
by its hash and no other.
"""

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_INDEX, _STYLE = "index.html", "page.css"
_STYLE_LINK = f'<link rel="stylesheet" href="/page/{_STYLE}">'


@dataclass(frozen=True, kw_only=True)
class SearchPage:
    """files: name -> content. headers: of every reply with one of them."""

    files: Mapping[str, bytes]
    headers: Mapping[str, str]


def load_page() -> SearchPage:
    """Read the files of the page."""
    folder = files("gve_ray.serving") / "page"
    found = {file.name: file.read_bytes() for file in folder.iterdir() if suffix(file.name) in TYPES}
    style = found.pop(_STYLE).decode()
    modules = sorted(name for name in found if suffix(name) == "js")
    head = [
        f"<style>{style}</style>",
        *(f'<link rel="modulepreload" href="/page/{name}">' for name in modules),
    ]
    before, after = found[_INDEX].decode().split(_STYLE_LINK)
    found[_INDEX] = "\n".join([before.rstrip(), *head]).encode() + after.encode()
    style_hash = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self'; style-src 'sha256-{style_hash}'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return SearchPage(files=found, headers=headers)


def suffix(name: str) -> str:
    return name.rpartition(".")[2]

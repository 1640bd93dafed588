"""Parse HTML pages in tests."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Collects every tag with its attributes, and the text outside the tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def sources(self) -> list[str]:
        """Return the `src` attribute of every image."""
        return [attrs["src"] or "" for tag, attrs in self.tags if tag == "img"]

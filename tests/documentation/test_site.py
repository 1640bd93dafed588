"""The documentation site: its links are alive, and what it takes from the code is complete."""

import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Literal

import pytest

from docs import generated
from gve_ray.config import number
from gve_ray.registry import JOBS
from tests.documentation.examples import DOCUMENTS, PAGES, ROOT

PUBLIC = ("embedder", "media", "search", "stage", "store")  # the packages of the API reference


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *PAGES])
def test_relative_links_lead_somewhere(document: str) -> None:
    """Also those of the files that are not part of the site."""
    text = re.sub(r"(?ms)^```.*?^```", "", (ROOT / document).read_text())
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [
        link
        for link in links
        if link and "://" not in link and not ((ROOT / document).parent / link).exists()
    ]
    assert missing == []


@pytest.mark.parametrize("job", JOBS)
def test_every_option_has_a_description(job: str) -> None:
    options = [
        option for section in generated.sections(resolve_name(JOBS[job].config)) for option in section.options
    ]
    assert len(options) > 10
    assert [option.name for option in options if not option.description] == []


@pytest.mark.parametrize("job", JOBS)
def test_every_option_of_the_parser_is_in_the_table(job: str) -> None:
    """The options that `--print_config` shows, but for the entries of lists, are in the tables."""
    shown = generated.sections(resolve_name(JOBS[job].config))
    documented = {
        f"{name}.{option.name.rpartition('.')[2]}".lstrip(".")
        for section in shown
        for option in section.options
        for name in section.names
    }
    assert set(leaves(resolve_name(JOBS[job].config))) <= documented


def leaves(config: type, prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of a config class's options, from the classes of the defaults."""
    for option in dataclasses.fields(config):
        factory = option.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            yield from leaves(factory, f"{prefix}{option.name}.")
        elif factory is dataclasses.MISSING or not dataclasses.is_dataclass(factory()):
            yield prefix + option.name
        else:
            yield from leaves(type(factory()), f"{prefix}{option.name}.")


@dataclass(frozen=True, kw_only=True)
class Inner:
    """Sizes.

    width, height: in pixels. On a
    phone, smaller. unit: as in CSS.
    """

    width: int = number(640, at_least=1)
    height: int | None = None
    unit: Literal["px", "em"] = "px"


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A window. title: shown at the top; None shows nothing."""

    title: str | None
    speed: float = 0.5  # of opening,
    # Comments above an option are read, too.
    tags: list[str] = field(default_factory=list)
    normal: Inner = field(default_factory=Inner)
    large: Inner = field(default_factory=Inner)
    others: tuple[Inner, ...] = ()


def test_options_of_a_class() -> None:
    top, sizes, others = generated.sections(Outer)
    assert (top.names, sizes.names, others.names) == (("",), ("normal", "large"), ("others[]",))
    assert (top.introduction, sizes.introduction) == ("A window.", "Sizes.")
    rows = {option.name: option for section in (top, sizes, others) for option in section.options}
    assert rows["title"].description == "shown at the top; None shows nothing"
    assert (rows["title"].type, rows["title"].default) == ("text or null", "")
    assert (rows["speed"].default, rows["speed"].description) == ("`0.5`", "of opening,")
    assert rows["tags"].description == "Comments above an option are read, too."
    assert rows["others"].type == "list of section"
    width, height, unit = (rows[f"normal.{name}"] for name in ("width", "height", "unit"))
    assert width.description == height.description == "in pixels. On a phone, smaller"
    assert (width.default, width.bounds, height.default) == ("`640`", "at least 1", "`null`")
    assert (unit.type, unit.description) == ("`px`, `em`", "as in CSS")


def test_columns_of_a_schema() -> None:
    page = generated.on_page_markdown("before\n<!-- columns: gve_ray.schema:ASSET_SCHEMA -->\nafter")
    assert page.startswith("before\n| column | type | meaning |\n")
    assert "| `content_hash` | `string` | sha256 of the file's bytes |" in page
    assert "| `clips[].start` | `double` | seconds |" in page
    assert page.endswith("\nafter")


def test_text_is_not_read_as_markup() -> None:
    assert generated._escaped("2*3, <root>/a_b | `x_y<z>`") == r"2\*3, &lt;root&gt;/a\_b \| `x_y<z>`"


def test_values_of_an_enumeration() -> None:
    page = generated.on_page_markdown("<!-- values: gve_ray.media:Reason -->")
    assert "| `unreadable` | the bytes could not be fetched |" in page


def test_every_reason_to_drop_a_caption_is_documented() -> None:
    reasons = resolve_name("gve_ray.synthesis.rectify:REASONS")
    page = (ROOT / "docs/jobs/synthesis.md").read_text()
    assert [reason for reason in reasons if f"`{reason}`" not in page] == []


def test_no_document_is_left_out() -> None:
    assert {"README.md", "docs/cluster.md", "docs/jobs/training.md"} <= set(DOCUMENTS)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_site_builds_strictly(tmp_path: Path) -> None:
    """No dead link, anchor or orphan page; all public classes and functions are in the reference."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    jobs = (tmp_path / "site/jobs/synthesis/index.html").read_text()
    assert "<code>motion_threshold</code>" in jobs
    assert "<code>clips[].start</code>" in jobs
    reference = " ".join(page.read_text() for page in (tmp_path / "site/api").rglob("*.html"))
    anchors = set(re.findall(r'id="(gve_ray\.[^"]+)"', reference))
    for name in PUBLIC:
        package = importlib.import_module(f"gve_ray.{name}")
        for public in package.__all__:
            value = getattr(package, public)
            if inspect.isclass(value) or inspect.isfunction(value):
                assert anchors & {f"gve_ray.{name}.{public}", f"gve_ray.{name}.{public}.{public}"}, public

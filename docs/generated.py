"""Fill in the parts of the documentation that are taken from the code (an mkdocs hook, see mkdocs.yml).

A comment of one of these forms, alone on a line of a page, is replaced when the site is built:

    <!-- options: train -->                           every option of a job, with type, default and meaning
    <!-- columns: gve_ray.schema:ASSET_SCHEMA -->     the columns of an Arrow schema
    <!-- values: gve_ray.media:Reason -->             the values of an enumeration

The descriptions come from the docstring of a config class (`name: description.`), or from the
comment at a field, a column or a value.
"""

import ast
import dataclasses
import html
import inspect
import io
import re
import tokenize
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pkgutil import resolve_name
from typing import Any

import pyarrow as pa

from gve_ray.registry import JOBS

DIRECTIVE = re.compile(r"^<!-- (options|columns|values): (\S+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the directives of a page; mkdocs calls this for each page."""
    return DIRECTIVE.sub(lambda found: _WRITERS[found[1]](found[2]), markdown)


# ---- Options of a config class


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option of a config. name: with the names of its sections, as on the command line."""

    name: str
    type: str
    default: str
    bounds: str
    description: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """The options of one class. names: the sections that have exactly these options."""

    names: tuple[str, ...]
    introduction: str
    options: tuple[Option, ...]


def sections(config: type, prefix: str = "", defaults: Any = None) -> Iterator[Section]:
    """Yield the sections of a config class, each before its own sections.

    defaults: an instance whose values are the defaults, as of a section whose defaults differ from those of its class.
    """
    introduction, described = descriptions(config)
    hints = typing.get_type_hints(config)
    options: list[Option] = []
    nested: dict[tuple[type, str], list[str]] = {}
    instances: dict[tuple[type, str], Any] = {}
    for field in dataclasses.fields(config):
        default = _default(field) if defaults is None else getattr(defaults, field.name)
        inner, suffix = _dataclass_in(hints[field.name])
        if inner is not None:
            key = inner, repr(default)
            instance = default if isinstance(default, inner) else None
            nested.setdefault(key, []).append(f"{prefix}{field.name}{suffix}")
            instances[key] = instance
        if inner is None or suffix or not dataclasses.is_dataclass(default):
            options.append(
                Option(
                    name=prefix + field.name,
                    type=_type_name(hints[field.name]),
                    default="" if default is dataclasses.MISSING else _shown(default),
                    bounds=" and ".join(
                        f"{kind.replace('_', ' ')} {bound:,g}"
                        for kind, bound in field.metadata.get("bounds", {}).items()
                    ),
                    description=described.get(field.name, ""),
                )
            )
    if options:
        yield Section(names=(prefix.rstrip("."),), introduction=introduction, options=tuple(options))
    for key, names in nested.items():
        for section in sections(key[0], f"{names[0]}.", instances[key]):
            renamed = tuple(name + inner.removeprefix(names[0]) for name in names for inner in section.names)
            yield dataclasses.replace(section, names=renamed)


def descriptions(config: type) -> tuple[str, Mapping[str, str]]:
    """Return the introduction of a config class, and the description of each option that has one.

    An inherited option may be described by the class that defines it.
    """
    found: dict[str, str] = {}
    names = [field.name for field in dataclasses.fields(config)]
    introduction = ""
    for kind in config.__mro__:
        if not dataclasses.is_dataclass(kind):
            continue
        text, own = _described_in(inspect.cleandoc(kind.__doc__ or ""), names)
        if kind is config:
            introduction = text
        for name, description in {**_commented(kind), **own}.items():
            found.setdefault(name, description)
    return introduction, found


def _described_in(docstring: str, names: list[str]) -> tuple[str, dict[str, str]]:
    """Split a docstring into its introduction and the descriptions of the form `name, name: text`."""
    name = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    start = re.compile(rf"(?:^|(?<=[.;:]\s)|(?<=\n))((?:{name})(?:,\s(?:{name}))*):\s")
    introduction, found = [], {}
    for paragraph in docstring.split("\n\n"):
        matches = list(start.finditer(paragraph))
        introduction.append(paragraph[: matches[0].start()] if matches else paragraph)
        for match, following in zip(matches, [*matches[1:], None], strict=False):
            text = paragraph[match.end() : following.start() if following else None]
            for option in re.split(r",\s", match[1]):
                found[option] = " ".join(text.split()).rstrip(";.")
    return "\n\n".join(part.strip() for part in introduction if part.strip()), found


def _commented(kind: type) -> dict[str, str]:
    """Return the comments at the fields of a class, or directly above them."""
    source = inspect.getsource(kind)
    comments = _comments(source)
    (definition,) = ast.parse(source).body
    found = {}
    for node in typing.cast(ast.ClassDef, definition).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = _comment_at(comments, node)
            if text:
                found[node.target.id] = text
    return found


def _dataclass_in(hint: Any) -> tuple[type | None, str]:
    """Return the dataclass that a type contains, and "[]" if it is a list of them."""
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint), ""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    for argument in arguments:
        if dataclasses.is_dataclass(argument):
            return typing.cast(type, argument), "[]" if origin in (list, tuple) else ""
    return None, ""


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _type_name(hint: Any) -> str:
    """Return a type in words: `int`, `list of text`, or the values of a choice."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_name(argument) for argument in arguments)
    if origin in (list, tuple) and (origin is list or arguments[-1] is Ellipsis):
        return f"list of {_type_name(arguments[0])}"
    if origin is tuple:
        return f"{len(arguments)} values: {', '.join(_type_name(argument) for argument in arguments)}"
    if origin is dict:
        return "mapping"
    if dataclasses.is_dataclass(hint):
        return "section"
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(f"`{value}`" for value in hint)
    return {type(None): "null", str: "text", bool: "true or false"}.get(
        hint, getattr(hint, "__name__", str(hint))
    )


def _shown(value: Any) -> str:
    """Return a value as in YAML."""
    if value is None or isinstance(value, bool):
        return f"`{ {None: 'null', True: 'true', False: 'false'}[value] }`"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(str(part) for part in value)}]`"
    if isinstance(value, Mapping):
        return f"`{{{', '.join(f'{key}: {part}' for key, part in value.items())}}}`"
    if isinstance(value, str):
        return f"`{value}`" if value else "`''`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _options(job: str) -> str:
    """Return the options of a job as Markdown: a heading and a table for each section."""
    parts = []
    for section in sections(resolve_name(JOBS[job].config)):
        title = ", ".join(f"`{name}`" for name in section.names if name) or "Top level"
        parts.append(f"### {title}\n\n{_escaped(section.introduction)}\n")
        rows = []
        for option in section.options:
            name = f"`{option.name.removeprefix(section.names[0] + '.')}`"
            kind = option.type + (f", {option.bounds}" if option.bounds else "")
            meaning = re.sub(r"\bNone\b", "null", option.description)  # as YAML spells it
            rows.append((name, kind, option.default or "required", _escaped(meaning)))
        parts.append(_table(("option", "type", "default", "meaning"), rows))
    return "\n".join(parts)


# ---- Columns of a schema, values of an enumeration


def _columns(path: str) -> str:
    """Return the columns of an Arrow schema, given as module:NAME, as a Markdown table."""
    module, _, name = path.partition(":")
    source = inspect.getsource(resolve_name(module))
    return _table(("column", "type", "meaning"), list(_fields(source, name, resolve_name(path), "")))


def _fields(source: str, name: str, kind: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    """Yield a row for each field of a schema or struct that a module assigns to a name."""
    comments = _comments(source)
    (value,) = (
        node.value
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and node.targets[0].id == name
    )
    for node in ast.walk(value):
        if not (isinstance(node, ast.Tuple) and isinstance(node.elts[0], ast.Constant)):
            continue
        field = kind.field(str(node.elts[0].value))
        yield f"`{prefix}{field.name}`", f"`{_arrow_name(field.type)}`", _escaped(_comment_at(comments, node))
        inner = field.type.value_type if pa.types.is_list(field.type) else field.type
        if pa.types.is_struct(inner):
            struct = next(
                part.id for part in ast.walk(node.elts[1]) if isinstance(part, ast.Name) and part.id.isupper()
            )
            suffix = "[]." if inner is not field.type else "."
            yield from _fields(source, struct, inner, f"{prefix}{field.name}{suffix}")


def _arrow_name(kind: Any) -> str:
    if pa.types.is_list(kind):
        return f"list<{_arrow_name(kind.value_type)}>"
    if pa.types.is_dictionary(kind):
        return _arrow_name(kind.value_type)
    return "struct" if pa.types.is_struct(kind) else str(kind)


def _values(path: str) -> str:
    """Return the values of a StrEnum, given as module:Name, as a Markdown table."""
    kind = resolve_name(path)
    source = inspect.getsource(kind)
    comments = _comments(source)
    (definition,) = ast.parse(source).body
    rows = [
        (f"`{kind[node.targets[0].id]}`", _escaped(_comment_at(comments, node)))
        for node in typing.cast(ast.ClassDef, definition).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    ]
    return _table(("value", "meaning"), rows)


# ---- Text


def _comments(source: str) -> dict[int, tuple[str, bool]]:
    """Return the comments of a source text by line: the text, and whether nothing else is on the line."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {
        token.start[0]: (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
        for token in tokens
        if token.type == tokenize.COMMENT and not token.string.startswith(("# fmt:", "# type:", "# noqa"))
    }


def _comment_at(comments: Mapping[int, tuple[str, bool]], node: ast.expr | ast.stmt) -> str:
    """Return the comment at the end of a node, or else the comment lines directly above it."""
    text, is_alone = comments.get(node.end_lineno or node.lineno, ("", True))
    if not is_alone:
        return text
    above: list[str] = []
    line = node.lineno - 1
    while line in comments and comments[line][1]:
        above.insert(0, comments[line][0])
        line -= 1
    return " ".join(above)


def _escaped(text: str) -> str:
    """Escape the characters that Markdown would interpret, except in code between backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([\\*_|\[\]])", r"\\\1", html.escape(part, quote=False)) for part in parts[::2]]
    return "`".join(parts)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


_WRITERS = {"options": _options, "columns": _columns, "values": _values}

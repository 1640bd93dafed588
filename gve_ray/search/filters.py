"""Filters on metadata: one small language, in the words of each index.

    {"year": 2024}                            equal
    {"year": [2023, 2024]}                    one of these
    {"start": {"gte": 10, "lt": 60}}          gt, gte, lt, lte (numbers), ne
    {"caption": null}                         there is none

All conditions must hold. A row without a value passes only the last kind.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.search.index import FITTING, Filter, IndexSpec, SearchError, Value, fits

SIGNS = {"eq": "=", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_RANGES = ("gt", "gte", "lt", "lte")
_COMPUTE = {"eq": "equal", "ne": "not_equal", "gt": "greater", "gte": "greater_equal",
            "lt": "less", "lte": "less_equal"}  # fmt: skip
MOST_VALUES = 1000  # of a list


@dataclass(frozen=True)
class Condition:
    """One comparison. sign: of `SIGNS`, or "in" with a tuple, or "null"."""

    field: str
    sign: str
    value: Any = None


def parse(filter: Filter | None, spec: IndexSpec) -> list[Condition]:
    """The conditions of a filter. Raises SearchError, saying what would do, if it does not fit the fields."""
    if filter is None:
        return []
    if not hasattr(filter, "items"):
        raise SearchError(f'filter {filter!r}: give an object such as {{"field": value}}')
    conditions: list[Condition] = []
    for name, wanted in filter.items():
        if name not in spec.fields:
            raise SearchError(f"filter {name!r}: no such field; there are {', '.join(sorted(spec.fields))}")
        if wanted is None:
            conditions.append(Condition(name, "null"))
        elif isinstance(wanted, dict):
            conditions += _comparisons(name, wanted, spec)
        elif isinstance(wanted, (list, tuple)):
            if not 0 < len(wanted) <= MOST_VALUES:
                raise SearchError(f"filter {name!r}: a list of {len(wanted)}; give 1 to {MOST_VALUES} values")
            conditions.append(Condition(name, "in", tuple(_value(name, one, spec) for one in wanted)))
        else:
            conditions.append(Condition(name, "eq", _value(name, wanted, spec)))
    return conditions


def _comparisons(name: str, wanted: dict[str, Any], spec: IndexSpec) -> list[Condition]:
    if not wanted or not set(wanted) <= set(SIGNS):
        raise SearchError(f"filter {name!r}: {sorted(wanted)}; use some of {', '.join(SIGNS)}")
    if spec.fields[name] in ("string", "bool") and (ranges := sorted(set(wanted) & set(_RANGES))):
        raise SearchError(f"filter {name!r}: {', '.join(ranges)} compare numbers; use a value or a list")
    return [Condition(name, sign, _value(name, one, spec)) for sign, one in wanted.items()]


def _value(name: str, value: Any, spec: IndexSpec) -> Value:
    kind = spec.fields[name]
    if kind == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or not fits(value, kind):
        raise SearchError(f"filter {name!r}: {value!r}; the field is {kind}, give {FITTING[kind]}")
    return float(value) if kind == "float" else value


def mask(conditions: Sequence[Condition], table: pa.Table) -> pa.ChunkedArray:
    """bool [n]: which rows pass."""
    passing = pa.chunked_array([pa.repeat(True, table.num_rows)])
    for one in conditions:
        column = table.column(one.field)
        if one.sign == "null":
            found = pc.is_null(column)
        elif one.sign == "in":
            found = pc.is_in(column, value_set=pa.array(one.value, column.type))
        else:
            found = getattr(pc, _COMPUTE[one.sign])(column, pa.scalar(one.value, column.type))
        passing = pc.and_(passing, pc.fill_null(found, False))
    return passing


def to_sql(conditions: Sequence[Condition]) -> str | None:
    """For Lance; None where there are no conditions."""
    return _join([_one(one, f"`{one.field}`", "IS NULL", "=", "IN ({})", _sql_value) for one in conditions])


def to_milvus(conditions: Sequence[Condition]) -> str:
    """For Milvus; empty where there are no conditions."""
    return (
        _join([_one(one, one.field, "is null", "==", "in [{}]", _milvus_value) for one in conditions]) or ""
    )


def _join(parts: list[str]) -> str | None:
    return " and ".join(f"({part})" for part in parts) or None


def _one(one: Condition, name: str, null: str, equal: str, among: str, quoted: Any) -> str:
    if one.sign == "null":
        return f"{name} {null}"
    if one.sign == "in":
        return f"{name} {among.format(', '.join(quoted(value) for value in one.value))}"
    return f"{name} {equal if one.sign == 'eq' else SIGNS[one.sign]} {quoted(one.value)}"


def _sql_value(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return _number(value)


def _milvus_value(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _number(value)


def _number(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    assert isinstance(value, (int, float))
    assert math.isfinite(value)
    return repr(value)

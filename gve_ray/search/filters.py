"""Filter rows by metadata: parse filters, and translate them for each index.

    {"year": 2024}                            equal to the value
    {"year": [2023, 2024]}                    equal to one of the values
    {"start": {"gte": 10, "lt": 60}}          gt, gte, lt, lte (numbers only), ne
    {"caption": null}                         the row has no value

All conditions must hold. A row without a value in a field passes only a condition of the last kind.
"""

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gve_ray.errors import shown
from gve_ray.search.index import FITTING, Filter, IndexSpec, SearchError, Value, fits

SIGNS = {"eq": "=", "ne": "!=", "gt": ">", "gte": ">=", "lt": "<", "lte": "<="}
_RANGES = ("gt", "gte", "lt", "lte")
_COMPUTE = {"eq": "equal", "ne": "not_equal", "gt": "greater", "gte": "greater_equal",
            "lt": "less", "lte": "less_equal"}  # fmt: skip
MAX_VALUES = 1000  # in a list


@dataclass(frozen=True)
class Condition:
    """One comparison. sign: a key of `SIGNS`, or "in" with a tuple of values, or "null"."""

    field: str
    sign: str
    value: Any = None


def parse(filter: Filter | None, spec: IndexSpec) -> list[Condition]:
    """Return the conditions of a filter. Raises SearchError if it does not match the fields."""
    if filter is None:
        return []
    if not hasattr(filter, "items"):
        raise SearchError(f'filter {shown(filter)}: give an object such as {{"field": value}}')
    conditions: list[Condition] = []
    for name, operand in filter.items():
        if name not in spec.fields:
            raise SearchError(
                f"filter {shown(name)}: no such field; there are {', '.join(sorted(spec.fields))}"
            )
        if operand is None:
            conditions.append(Condition(name, "null"))
        elif isinstance(operand, dict):
            conditions += _comparisons(name, operand, spec)
        elif isinstance(operand, (list, tuple)):
            if not 0 < len(operand) <= MAX_VALUES:
                raise SearchError(
                    f"filter {shown(name)}: a list of {len(operand)}; give 1 to {MAX_VALUES} values"
                )
            conditions.append(Condition(name, "in", tuple(_value(name, value, spec) for value in operand)))
        else:
            conditions.append(Condition(name, "eq", _value(name, operand, spec)))
    return conditions


def _comparisons(name: str, operands: dict[str, Any], spec: IndexSpec) -> list[Condition]:
    if not operands or not set(operands) <= set(SIGNS):
        raise SearchError(f"filter {shown(name)}: {shown(sorted(operands))}; use some of {', '.join(SIGNS)}")
    if spec.fields[name] in ("string", "bool") and (ranges := sorted(set(operands) & set(_RANGES))):
        raise SearchError(f"filter {shown(name)}: {', '.join(ranges)} compare numbers; use a value or a list")
    return [Condition(name, sign, _value(name, value, spec)) for sign, value in operands.items()]


def _value(name: str, value: Any, spec: IndexSpec) -> Value:
    kind = spec.fields[name]
    if kind == "int" and isinstance(value, float) and value.is_integer():
        value = int(value)
    if kind == "float" and type(value) is int and abs(value) <= sys.float_info.max:
        value = float(value)
    if value is None or not fits(value, kind):
        raise SearchError(f"filter {shown(name)}: {shown(value)}; the field is {kind}, give {FITTING[kind]}")
    return float(value) if kind == "float" else value


def mask(conditions: Sequence[Condition], table: pa.Table) -> pa.ChunkedArray:
    """Return which rows pass, bool [n]."""
    passing = pa.chunked_array([pa.repeat(True, table.num_rows)])
    for condition in conditions:
        column = table.column(condition.field)
        if condition.sign == "null":
            holds = pc.is_null(column)
        elif condition.sign == "in":
            holds = pc.is_in(column, value_set=pa.array(condition.value, column.type))
        else:
            compare = getattr(pc, _COMPUTE[condition.sign])
            holds = compare(column, pa.scalar(condition.value, column.type))
        passing = pc.and_(passing, pc.fill_null(holds, False))
    return passing


def to_sql(conditions: Sequence[Condition]) -> str | None:
    """Return the conditions as an SQL expression for Lance, or None if there are no conditions."""
    return _join(
        [
            _expression(condition, f"`{condition.field}`", "IS NULL", "=", "IN ({})", _sql_value)
            for condition in conditions
        ]
    )


def to_milvus(conditions: Sequence[Condition]) -> str:
    """Return the conditions as an expression for Milvus; it is empty if there are no conditions."""
    expressions = [
        _expression(condition, condition.field, "is null", "==", "in [{}]", _milvus_value)
        for condition in conditions
    ]
    return _join(expressions) or ""


def _join(parts: list[str]) -> str | None:
    return " and ".join(f"({part})" for part in parts) or None


def _expression(condition: Condition, name: str, null: str, equal: str, among: str, quoted: Any) -> str:
    if condition.sign == "null":
        return f"{name} {null}"
    if condition.sign == "in":
        return f"{name} {among.format(', '.join(quoted(value) for value in condition.value))}"
    sign = equal if condition.sign == "eq" else SIGNS[condition.sign]
    return f"{name} {sign} {quoted(condition.value)}"


def _sql_value(value: Value) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if value == -(2**63) and isinstance(value, int):
        return f"({-(2**63) + 1} - 1)"  # Lance reads the digits before the sign, and they are too large
    return _number(value)


def _milvus_value(value: Value) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else _number(value)


def _number(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    assert isinstance(value, (int, float))
    assert math.isfinite(value)
    return repr(value)

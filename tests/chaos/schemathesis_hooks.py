"""Hooks for schemathesis (schemathesis.toml), which runs in a separate environment.

schemathesis 4.32.5 cannot negate a schema with `maxContains` ("result is not supported in canonical form"), and takes
every changed form with a file for an invalid one, also when it is still valid. So it generates requests without that
keyword, and those that are not what they count as are left out here.
"""

import copy
from typing import Any

import jsonschema_rs
import schemathesis
from schemathesis.transport.serialization import Binary

_document: dict[str, Any] = {}  # as the service has sent it


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Let the parts of a content be of any kinds."""
    _document.update(copy.deepcopy(raw_schema))
    for form in raw_schema["components"]["schemas"]["Content"]["anyOf"]:
        form.pop("allOf", None)


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Return False for a body that counts as valid and is not, and for a form that counts as invalid and is valid."""
    operation = _document["paths"][case.operation.path][case.operation.method]
    kind = operation.get("requestBody", {}).get("content", {}).get(case.media_type)
    if case.meta is None or kind is None or not isinstance(case.body, dict):
        return True
    body = {name: "file" if isinstance(value, bytes | Binary) else value for name, value in case.body.items()}
    is_valid = jsonschema_rs.is_valid({**kind["schema"], "components": _document["components"]}, body)
    if case.meta.generation.mode.is_negative:
        return not is_valid or case.media_type == "application/json"
    return is_valid

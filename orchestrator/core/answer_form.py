"""The form a call wants its answer in, and whether an answer has it.

Schemas are their callers': what could make a check slow, or have it ask somebody outside, is passed over (regular
expressions, references to other documents).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final

from orchestrator.core.dialects.as_chat import as_chat
from orchestrator.core.model import Call, Dialect

ANY_JSON: Final = "json"


def wanted_form(call: Call) -> Any:
    """A JSON schema, `ANY_JSON`, or None where the answer is free text."""
    call = as_chat(call)
    if call.endpoint.dialect is Dialect.OLLAMA:
        return call.body.get("format") or None
    wanted = call.body.get("response_format")
    if not isinstance(wanted, Mapping):
        return None
    kind = str(wanted.get("type") or "").strip().lower()
    if kind == "json_schema":
        return (wanted.get("json_schema") or {}).get("schema") or ANY_JSON
    return ANY_JSON if kind == "json_object" else None


def has_form(text: str, wanted: Any) -> bool:
    """Whether `text` is JSON that fits. A schema that is none is the engine's to refuse, and fits all JSON."""
    try:
        told = json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return False
    if not isinstance(wanted, Mapping):
        return True
    try:
        return _fitting()(wanted, told)
    except RecursionError:
        return False


@cache
def _fitting() -> Callable[[Mapping[str, Any], object], bool]:
    """Whether a value fits a schema. The library is brought in here: it takes a tenth of a second, and settings, which
    are read by each command, import what imports this."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError
    from jsonschema.validators import extend
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    def passed_over(validator: object, value: object, instance: object, schema: object) -> tuple[()]:
        return ()

    checked = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"pattern": passed_over, "patternProperties": passed_over}
    )
    nothing_else: Registry[Any] = Registry()

    def fits(schema: Mapping[str, Any], told: object) -> bool:
        try:
            checked.check_schema(schema)
            return bool(checked(schema, registry=nothing_else).is_valid(told))
        except (SchemaError, Unresolvable):
            return True

    return fits

"""Settings as text that others read: YAML with every default filled in, and a JSON schema for editors.

No secret leaves through here: keys and passwords are printed as a mask, which `file` refuses to read back.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.section import Section
from orchestrator.settings.sources import MASK
from orchestrator.settings.words import is_mapping_of_names, may_be_empty, section_of

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_PASSWORD_IN_URL = re.compile(r"(://[^:@/]*):.*@")
_PASSWORD_IN_QUERY = re.compile(r"([?&]password=)[^&]*")


def show(settings: ClusterSettings) -> str:
    """`settings` as YAML that means the same, apart from secrets."""
    tree = settings.model_dump(mode="json")
    for key in tree["keys"]:
        key["secret"] = key["secret"] and MASK
    cache = tree["cache"]
    cache["secret"] = cache["secret"] and MASK
    cache["encryption_key"] = cache["encryption_key"] and MASK
    cache["old_encryption_keys"] = [MASK for _ in cache["old_encryption_keys"]]
    for provider in tree["providers"].values():
        provider["key"] = provider["key"] and MASK
        provider["headers"] = dict.fromkeys(provider["headers"], MASK)
    for login in filter(None, (each["login"] for each in tree["issuers"].values())):
        login["client_secret"] = login["client_secret"] and MASK
    tree["traces"]["headers"] = dict.fromkeys(tree["traces"]["headers"], MASK)
    tree["redis"] = without_password(tree["redis"])
    tree["redis_password"] = tree["redis_password"] and MASK
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)


def without_password(url: str) -> str:
    """A URL fit for logs and pages."""
    return _PASSWORD_IN_QUERY.sub(rf"\1{MASK}", _PASSWORD_IN_URL.sub(rf"\1:{MASK}@", url))


def json_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of `cluster.yaml` as it is written, with the places that may be left empty."""
    schema = ClusterSettings.model_json_schema(mode="validation")
    _loosen(ClusterSettings, schema["properties"])
    for name, field in ClusterSettings.model_fields.items():
        if (section := section_of(field.annotation)) is not None:
            _loosen(section, schema["$defs"][section.__name__]["properties"])
        if is_mapping_of_names(field.annotation):
            mapping = schema["properties"][name]
            mapping = mapping["anyOf"][0] if "anyOf" in mapping else mapping
            mapping["additionalProperties"] = False
            if may_be_empty(section):
                mapping["patternProperties"] = {
                    key: _or_null(each) for key, each in mapping["patternProperties"].items()
                }
    either = [{"required": [each]} for each in ("models", "instances")]
    return {"$schema": _DRAFT, **schema, "title": "cluster.yaml", "anyOf": either}


def _loosen(section: type[Section], properties: dict[str, Any]) -> None:
    """Allow nothing where `file` reads it as an empty section, mapping or list."""
    for name, field in section.model_fields.items():
        if may_be_empty(field.annotation) or field.default in ((), {}):
            properties[name] = _or_null(properties[name])


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    outer = {key: value for key, value in schema.items() if key in ("title", "description", "default", "examples")}
    inner = {key: value for key, value in schema.items() if key not in outer}
    return {**outer, "anyOf": [inner, {"type": "null"}]}

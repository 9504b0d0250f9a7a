"""docs/configuration.md: every setting as the models have it, an example with all of them, and what to know first.

`python -m orchestrator.settings.reference > docs/configuration.md`
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from orchestrator.settings.access import GrantSettings, IssuerSettings, KeySettings
from orchestrator.settings.answering import CacheSettings
from orchestrator.settings.hosts import InstanceSettings, ModelSettings, NodeSettings
from orchestrator.settings.live import AT_START
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.outside import ProviderSettings
from orchestrator.settings.routing import RouteSettings, TierSettings
from orchestrator.settings.section import Section
from orchestrator.settings.words import as_yaml, example_of, is_list, is_mapping_of_names, section_of, type_words

_SMALL, _FULL = "llama3.2:3b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M"

EXAMPLE = ClusterSettings(
    listen="0.0.0.0:11434",
    nodes=(NodeSettings(name="gpu-1"), NodeSettings(name="gpu-2", address="10.0.0.8", user="ops")),
    models={
        _SMALL: ModelSettings(slots=4, context=4096, replicas="fill", share=3),
        _FULL: ModelSettings(slots=2, context=8192, replicas="fill"),
        "nomic-embed-text": ModelSettings(embedding=True),
    },
    providers={"groq": ProviderSettings(key=SecretStr("env:GROQ_KEY"), plan="free")},
    tiers={
        "small": TierSettings(model=_SMALL, backup="full"),
        "full": TierSettings(model=_FULL, backup="frontier"),
        "frontier": TierSettings(provider="groq", model="llama-3.3-70b-versatile"),
    },
    routes={"auto": RouteSettings(), "support": RouteSettings(task_full_from=3, cache="deterministic")},
    cache=CacheSettings(faq=(Path("faq.yaml"),)),
    keys=(
        KeySettings(name="support-team", secret=SecretStr("env:SUPPORT_KEY")),
        KeySettings(name="operator", secret=SecretStr("file:operator.key"), admin=True),
    ),
    issuers={
        "company": IssuerSettings(
            url="https://login.example.com/realms/main",
            audience=("ollama",),
            grants={"staff": GrantSettings(when={"groups": "gpu-users"})},
        )
    },
)
"""Every section at work. Its secrets and its FAQ are outside it, as they are in a real one."""

_INSTEAD: dict[str, tuple[Section, ...]] = {
    "instances": (
        InstanceSettings(url="http://10.0.0.5:11434", slots=4),
        InstanceSettings(url="http://10.0.0.6:8080", model="qwen3:8b", engine="llama.cpp"),
    )
}
"""What stands in a file instead of something else in the example: shown as comments."""

_INTRODUCTION = """\
<!-- Generated: python -m orchestrator.settings.reference > docs/configuration.md -->

# Configuration

A cluster is described by one file, `cluster.yaml`. Without one, the machine is looked at and a plan that it can hold
is used: a `small` and a `full` tier behind the model name `auto`. The least that a file of your own needs is a model,
or a server that runs already:

```yaml
models:
  llama3.2:3b:
```

```yaml
instances:
  - url: http://10.0.0.5:11434
```

Everything else has a default. A section or a model with nothing under its name takes every default, so a section may
be commented out line by line.

The file is YAML 1.2: only `true` and `false` are truths, so `cache: off` is the word `off`. Anchors, aliases and `<<`
work. Text that begins with `[`, `{`, `*`, `&`, `!` or `%` stands in quotes: `listen: "[::]:11434"`.

## What is refused

A file is taken as a whole or not at all. Everything wrong with it is listed at once, with line, column, field and the
way out:

```
cluster.yaml:4:5: models."llama3.2:3b".slot: no such setting; did you mean 'slots'?
cluster.yaml:7:12: tiers.small.model: no such model 'llama3.1:8b'; did you mean 'llama3.2:3b'? models are: llama3.2:3b
```

Refused are unknown keys, values of another type or out of bounds, a key written twice, names that refer to nothing, and
what nothing would use: a tier that no route names, itself or as a backup, or a `share` without `replicas: fill`. A
model that no tier uses is fine: callers ask for it by name. Routes are asked for by name too, so no route may have a
model's name.

## Servers that run already

With `instances` nothing is deployed: `nodes`, `engine` and what else only a deployment uses is refused. The servers
named are watched and balanced, and what they have is what is served, whatever `models` says. Of a model under `models`
two things count: `slots`, for instances that name none, and `embedding`, where a server does not tell. A tier may name
any model; one that no instance has is told of in `status` and `/readyz`. Entries with one URL are one server, with
slots of their own for the models they name; at most one of them has all others, `model: discovered`.

`ollamactl config check` reads a file and says what is wrong with it, `ollamactl config show` prints it with every
default filled in, and `ollamactl config schema` prints a JSON schema, with which an editor completes and checks it.

## Secrets

A key's `secret` is 16 characters or more: the secret itself, `env:NAME` for an environment variable, or `file:PATH` for
a file that holds it alone and that not every user may read (`chmod 600`). No two keys share a name or a secret. Secrets
are printed as `********` wherever settings are shown, and so is the password in a Redis URL.

Paths are relative to the folder of `cluster.yaml`. A number's unit is in its name: `_s` seconds, `_bytes` bytes.

## Changing a running cluster

The file is watched. A saved change is live without a restart and without a failed request; a file with an error is
reported and the settings before it stay. `SIGHUP` has the file, the secrets behind `file:` and the FAQ's files read
again without a change to it; an environment variable is as it was at the start. These wait for the next start:

"""


def document() -> str:
    """The whole page."""
    waiting = "".join(f"- `{field}`: {why}\n" for field, why in AT_START.items())
    example = f"## Every setting, in place\n\n```yaml\n{annotated(EXAMPLE)}```\n"
    return f"{_INTRODUCTION}{waiting}\n{example}\n## Reference\n\n{reference()}"


def reference() -> str:
    """One table a section, in the order of the file."""
    sections: list[tuple[str, type[Section], str]] = [("Top level", ClusterSettings, "`cluster.yaml`, whole.")]
    sections += _sections("", ClusterSettings)
    return "\n".join(f"### {title}\n\n{said}\n\n{_table(section)}" for title, section, said in sections)


def _sections(path: str, within: type[Section]) -> Iterator[tuple[str, type[Section], str]]:
    """The sections in one, each followed by those in itself: title, section, what it is."""
    for name, field in within.model_fields.items():
        if (section := section_of(field.annotation)) is not None:
            heading = path + _heading(name, field)
            yield f"`{heading}`", section, textwrap.dedent(section.__doc__ or "")
            yield from _sections(f"{heading}.", section)


def _heading(name: str, field: FieldInfo) -> str:
    if is_list(field.annotation):
        return f"{name}[]"
    return f"{name}.NAME" if is_mapping_of_names(field.annotation) else name


def _table(section: type[Section]) -> str:
    rows = ["| field | type | default | what it is |", "|---|---|---|---|"]
    for name, field in section.model_fields.items():
        cells = (f"`{name}`", _type_cell(field), _default_cell(field), field.description or "")
        rows.append(f"| {' | '.join(each.replace('|', '&#124;') for each in cells)} |")
    return "\n".join(rows) + "\n"


def _type_cell(field: FieldInfo) -> str:
    if section_of(field.annotation) is None:
        return type_words(field)
    if is_list(field.annotation):
        return "a list of mappings"
    return type_words(field) if is_mapping_of_names(field.annotation) else "a section"


def _default_cell(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if isinstance(field.default, Section):
        return "its defaults"
    default = [_set(each) for each in field.default] if is_list(field.annotation) else field.default
    return "none" if default is None or default in ([], {}) else f"`{as_yaml(default)}`"


def _set(value: Any) -> Any:
    return {key: getattr(value, key) for key in value.model_fields_set} if isinstance(value, Section) else value


def annotated(settings: ClusterSettings) -> str:
    """`settings` as YAML in which each key is explained where it is first written, and written even if not set."""
    blocks = []
    for name, field in ClusterSettings.model_fields.items():
        blocks.append("\n".join(_explained(name, field, getattr(settings, name), "")))
    return "\n\n".join(blocks) + "\n"


def _explained(name: str, field: FieldInfo, value: Any, indent: str) -> Iterator[str]:
    yield from (f"{indent}# {line}" for line in textwrap.wrap(field.description or "", 100 - len(indent)))
    if not value and name in _INSTEAD and not indent:
        yield from (f"# {line}" for line in _explained(name, FieldInfo(), _INSTEAD[name], ""))
    elif isinstance(value, Section):
        yield f"{indent}{name}:"
        yield from _all_of(value, indent + "  ")
    elif isinstance(value, dict) and all(isinstance(each, Section) for each in value.values()):
        yield f"{indent}{name}:"
        for index, (entry, section) in enumerate(value.items()):
            inner = list(_some_of(section, indent + "    ") if index else _all_of(section, indent + "    "))
            yield f"{indent}  {entry}:"
            yield from inner
    elif isinstance(value, tuple) and value and isinstance(value[0], Section):
        yield f"{indent}{name}:"
        for index, section in enumerate(value):
            yield from _as_item(list(_some_of(section, "") if index else _all_of(section, "")), indent + "  ")
    else:
        yield f"{indent}{_line(name, field, value)}"


def _all_of(section: Section, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        yield from _explained(name, field, getattr(section, name), indent)


def _some_of(section: Section, indent: str) -> Iterator[str]:
    for name, field in type(section).model_fields.items():
        if name in section.model_fields_set:
            yield f"{indent}{_line(name, field, getattr(section, name))}"


def _line(name: str, field: FieldInfo, value: Any) -> str:
    """A key and its value; a key with no value stays as a comment, with an example."""
    if value is None:
        return f"# {name}: {example_of(field)}"
    return f"{name}: {as_yaml(value)}"


def _as_item(lines: list[str], indent: str) -> Iterator[str]:
    """A list's item: the dash stands before its first key, the comments above that key before the dash."""
    first = next(index for index, line in enumerate(lines) if not line.startswith("#"))
    yield from (f"{indent}{line}" for line in lines[:first])
    yield f"{indent}- {lines[first]}"
    yield from (f"{indent}  {line}" for line in lines[first + 1 :])


if __name__ == "__main__":
    sys.stdout.write(document())

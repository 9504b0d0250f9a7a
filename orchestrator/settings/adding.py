"""One more node in `cluster.yaml`: the text as it was, comments and order included, with the node's lines in it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from orchestrator.core.errors import SettingsError
from orchestrator.settings.file import read_text
from orchestrator.settings.looking import look_text
from orchestrator.settings.model import ClusterSettings
from orchestrator.settings.positions import read
from orchestrator.whole_file import write_whole

NEW_FILE = """\
# Made by `ollamactl nodes add`. What may stand here: docs/configuration.md; what it would do: `ollamactl plan`.
nodes:
{node}
models:
  llama3.2:3b: {{}}
"""


def add_node(path: Path, node: Mapping[str, str]) -> ClusterSettings:
    """Write the node into the file, which is made where it is missing. Raises SettingsError and changes nothing
    where the outcome would not be valid. Environment variables that the file names need not be set here."""
    old = read_text(path) if path.exists() else None
    new = NEW_FILE.format(node=_item(node, "  ")) if old is None else with_node(old, node)
    settings = look_text(new, str(path)).settings
    before = (read(old).value if old is not None else read(new).value | {"nodes": None}) or {}
    if read(new).value != {**before, "nodes": [*(before.get("nodes") or ()), dict(node)]}:
        raise SettingsError(
            f"{path}: the node cannot be written between what is there; add it by hand:\n{_item(node, '  ')}"
        )
    _replace(path, new)
    return settings


def with_node(text: str, node: Mapping[str, str]) -> str:
    """The text with the node as the last of its `nodes`."""
    written = _nodes(text)
    if written is None:
        end = "" if not text or text.endswith("\n") else "\n"
        return f"{text}{end}nodes:\n{_item(node, '  ')}\n"
    if not isinstance(written, yaml.SequenceNode) or not written.value:  # `nodes:` with nothing in it, or `[]`
        before, after = text[: written.start_mark.index].rstrip(), text[written.end_mark.index :]
        return f"{before}\n{_item(node, '  ')}{after if after.startswith(chr(10)) else chr(10) + after}"
    if written.flow_style:
        at = written.value[-1].end_mark.index
        return f"{text[:at]}, {_inline(node)}{text[at:]}"
    lines = text.splitlines(keepends=True)
    last = _last_line(written)
    lines[last] = lines[last] if lines[last].endswith("\n") else f"{lines[last]}\n"
    lines.insert(last + 1, f"{_item(node, ' ' * written.start_mark.column)}\n")
    return "".join(lines)


def _nodes(text: str) -> yaml.Node | None:
    whole = yaml.compose(text, Loader=yaml.SafeLoader)
    pairs = whole.value if isinstance(whole, yaml.MappingNode) else []
    return next((value for key, value in pairs if key.value == "nodes"), None)


def _last_line(node: yaml.Node) -> int:
    """The line of the last word in it: a block's own end lies behind the comments that follow."""
    if not isinstance(node, yaml.CollectionNode) or not node.value or node.flow_style:
        end: int = node.end_mark.line
        return end
    last = node.value[-1]
    return _last_line(last[1] if isinstance(last, tuple) else last)


def _item(node: Mapping[str, str], indent: str) -> str:
    first, *rest = [f"{key}: {_quoted(value)}" for key, value in node.items()]
    return "\n".join([f"{indent}- {first}", *(f"{indent}  {each}" for each in rest)])


def _inline(node: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {_quoted(value)}" for key, value in node.items()) + "}"


def _quoted(value: str) -> str:
    """The value as YAML has it: without quotes where it is text without them."""
    return yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("...\n").strip()


def _replace(path: Path, text: str) -> None:
    try:
        write_whole(path, text)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be written: {error.strerror}") from error

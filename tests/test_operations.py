"""docs/operations.md says what is: metrics, commands, exit codes and the state folder.

`python -m tests.test_operations` puts today's metrics into the page.
"""

from __future__ import annotations

import re
import shlex
from itertools import dropwhile

from prometheus_client import Counter, Gauge, Histogram

from orchestrator import telemetry
from orchestrator.app.paths import StatePaths
from orchestrator.cli.main import main
from tests.docs.pages import parsed
from tests.house import ROOT

PAGE = ROOT / "docs" / "operations.md"
_METRICS = re.compile(r"(?<=-->\n).*?(?=<!-- end of metrics -->)", re.DOTALL)


def text() -> str:
    return PAGE.read_text(encoding="utf-8")


def metrics() -> str:
    """Every metric as Prometheus sees it, in the order of `telemetry`."""
    rows = ["| metric | labels | what it is |", "|---|---|---|"]
    for each in vars(telemetry).values():
        if isinstance(each, Counter | Gauge | Histogram):
            told = each.describe()[0]
            name = f"{told.name}_total" if told.type == "counter" else told.name
            kind = " (histogram, seconds)" if told.type == "histogram" else ""
            rows.append(f"| `{name}`{kind} | {', '.join(each._labelnames)} | {told.documentation} |")
    return "\n" + "\n".join(rows) + "\n\n"


def commands() -> list[list[str]]:
    """Every call of `ollamactl` in the page's examples."""
    blocks = re.findall(r"```sh\n(.*?)```", text(), re.DOTALL)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.splitlines() if "$(" not in line]
    bare = [list(dropwhile(lambda word: "=" in word, line)) for line in lines]
    return [line[1:] for line in bare if line[:1] == ["ollamactl"]]


def test_every_metric_is_in_the_table_as_it_is():
    found = _METRICS.search(text())
    assert found is not None
    assert found[0] == metrics(), "put today's into the page: python -m tests.test_operations"


def test_every_metric_named_anywhere_exists():
    known = set(re.findall(r"`(olm_\w+)`", metrics()))
    assert set(re.findall(r"`(olm_\w+)`", text())) == known


def test_every_command_shown_is_one():
    assert len(commands()) > 10
    for words in commands():
        parsed(words)


def test_the_exit_codes_are_those_of_the_help():
    table = text().partition("| code | `ollamactl` |")[2].partition("\n\n")[0]
    assert main.help is not None
    told = " ".join(main.help.split()).partition("Exit codes: ")[2].rstrip(".")
    for part in told.split(" · "):
        code, _, words = part.partition(" ")
        assert re.search(rf"^\| {code} \| {words}", table, re.MULTILINE), part


def test_the_state_folder_is_described_as_it_is(tmp_path):
    rows = text().partition("## The state folder")[2].partition("\n\n**Backup")[0]
    paths = StatePaths(tmp_path)
    for each in (paths.settings, paths.secrets, paths.redis, paths.metrics, paths.logs, paths.simulator):
        assert f"`{each.name}" in rows, each.name
    assert f"`{paths.keeper_socket.name}`" in rows


if __name__ == "__main__":
    PAGE.write_text(_METRICS.sub(lambda _: metrics(), text(), count=1), encoding="utf-8")

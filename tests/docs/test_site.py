"""The site: built strictly and without network, whole within itself, with nothing from outside."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from docs.site import api_page, metrics_page
from docs.site.openapi import served
from orchestrator import telemetry
from tests.docs.pages import DOCS, EVERY
from tests.house import ROOT

CONFIG = DOCS / "site" / "mkdocs.yml"
# Whatever would reach out of this machine ends the build.
_WALLED = """
import sys

def refuse(event, _):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        raise PermissionError(f"{event}: the site is built without network")

sys.addaudithook(refuse)
from mkdocs.__main__ import cli
cli()
"""
_LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href", "use": "href"}


class Page(HTMLParser):
    """What a built page has: ids to lead to, links, and what a browser loads for it."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in _LOADS and _LOADS[tag] in given:
            self.loads.append(given[_LOADS[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does, with any word to the outside refused."""
    folder = tmp_path_factory.mktemp("docs") / "site"
    build = ["build", "--strict", "--config-file", str(CONFIG), "--site-dir", str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", _WALLED, *build],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def built(site: Path) -> dict[Path, Page]:
    return {each: Page(each) for each in site.rglob("*.html")}


def test_every_page_of_the_repositorys_docs_is_in_it(site):
    for page in EVERY:
        assert (site / page.relative_to(DOCS).with_suffix(".html")).exists(), page


def test_every_page_is_in_the_navigation_or_in_the_list_of_decisions(built, site):
    lists = (site / "index.html", site / "decisions.html")
    reached = {_file(page, link) for page in lists for link in built[page].links}
    for page in built:
        is_of_its_own = page.name != "404.html" and "beside" not in page.parts
        assert not is_of_its_own or page in reached, page


def test_every_link_leads_to_a_page_and_a_place_on_it(built):
    for page, seen in built.items():
        for link in _within(seen.links):
            target = _file(page, link)
            assert target.is_file(), f"{page.name}: {link}"
            place = unquote(urlsplit(link).fragment)
            if place and target in built:
                assert place in built[target].ids | {"__top"}, f"{page.name}: {link}"


def test_what_pages_load_lies_beside_them_and_not_elsewhere(built, site):
    for page, seen in built.items():
        for each in seen.loads:
            assert not re.match(r"\w+:|//", each), f"{page.name} loads {each}"
            assert page.name == "404.html" or _file(page, each).is_file(), f"{page.name}: {each}"
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\([\"']?(?:https?:)?//", text), sheet


def test_no_page_has_what_the_theme_would_fetch_a_program_or_a_number_for(built):
    """Drawings by mermaid are fetched from a CDN, stars of a repository from GitHub."""
    for page in built:
        assert not re.search(r'class="mermaid"|data-md-component="source"', page.read_text(encoding="utf-8")), page


def test_the_page_of_metrics_has_each_with_its_kind(site):
    told = telemetry.generate_latest().decode()
    kinds = dict(re.findall(r"^# TYPE (olm_\w+) (\w+)$", told, re.MULTILINE))
    assert kinds
    sections = dict(re.findall(r"^## `(olm_\w+)`\n\n.*\n\n- (\w+)$", metrics_page.page(), re.MULTILINE))
    assert sections == {name: kind for name, kind in kinds.items() if not name.endswith("_created")}
    text = (site / "metrics.html").read_text(encoding="utf-8")
    assert all(f"<code>{name}</code>" in text for name in sections)


def test_the_page_of_the_api_has_every_path(site):
    assert set(re.findall(r"^## `(/.*?)`", api_page.page(), re.MULTILINE)) == served().keys()
    assert (site / "openapi.yaml").read_bytes() == (DOCS / "openapi.yaml").read_bytes()


def test_the_configuration_of_the_site_asks_nothing_of_others():
    told = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    assert told["theme"]["font"] is False
    assert "repo_url" not in told
    assert "analytics" not in told.get("extra", {})


def _within(links: list[str]) -> Iterator[str]:
    return (each for each in links if not re.match(r"https?:|mailto:", each))


def _file(page: Path, link: str) -> Path:
    """The file that a link on a page means; on the page for a missing path all links begin with a slash."""
    path = unquote(urlsplit(link).path)
    if not path:
        return page
    base = page.parent / path if page.name != "404.html" else page.parent / path.lstrip("/")
    target = Path(os.path.normpath(base))
    return target / "index.html" if target.is_dir() else target

"""What the site has besides docs/: pages made from the code, and files of the repository that pages link to.

Links are written for readers of the repository. Those that lead out of docs/ are led to a copy under beside/.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

SITE: Final = Path(__file__).resolve().parent
DOCS: Final = SITE.parent
ROOT: Final = DOCS.parent
# Mkdocs loads this file by its path: the repository's other modules are found from its root.
sys.path.insert(0, str(ROOT))

from docs.site import api_page, metrics_page  # noqa: E402

BESIDE: Final = "beside/"
_LINK: Final = re.compile(r"\]\((?!https?:|mailto:|#)(?P<path>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add what is made, and what is linked to outside docs/."""
    made = {"api.md": api_page.page(), "metrics.md": metrics_page.page(), "decisions.md": decisions()}
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    for path in sorted(_linked_outside(DOCS.rglob("*.md"))):
        files.append(File.generated(config, f"{BESIDE}{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, /, *, page: Any, **_: Any) -> str:
    """Links as they are right on the site."""
    here = PurePosixPath(page.file.src_uri)
    in_repository = here.relative_to(BESIDE) if here.is_relative_to(BESIDE) else PurePosixPath("docs") / here

    def led(found: re.Match[str]) -> str:
        target = _on_site(_target(ROOT / in_repository, found["path"]))
        if target is None:
            return found[0]  # told by mkdocs
        return f"]({os.path.relpath(target, here.parent)}{found['anchor'] or ''})"

    return _LINK.sub(led, markdown)


def decisions() -> str:
    """A page that lists docs/decisions."""
    pages = sorted((DOCS / "decisions").glob("*.md"))
    lines = [f"- [{each.stem[:4]}](decisions/{each.name}) {_title(each)}" for each in pages]
    about = "Choices that span modules: the forces, the choice, what it costs."
    return "\n".join(["# Decisions", "", about, "", *lines])


def _title(page: Path) -> str:
    first = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return re.sub(r"^\d{4}\W+", "", first)


def _target(page: Path, path: str) -> str | None:
    """The repository's file that `path` means on `page`; None where there is none."""
    target = Path(os.path.normpath(page.parent / path))
    if target == DOCS / "decisions":
        return "docs/decisions.md"
    target = target / "README.md" if target.is_dir() else target
    return target.relative_to(ROOT).as_posix() if target.is_relative_to(ROOT) and target.is_file() else None


def _on_site(path: str | None) -> str | None:
    if path is None:
        return None
    return path.removeprefix("docs/") if path.startswith("docs/") else BESIDE + path


def _linked_outside(pages: Iterator[Path]) -> set[str]:
    """Files outside docs/ that `pages` lead to, also by way of each other."""
    found: set[str] = set()
    left = list(pages)
    while left:
        page = left.pop()
        for link in _LINK.finditer(page.read_text(encoding="utf-8")):
            path = _target(page, link["path"])
            if path is not None and not path.startswith("docs/") and path not in found:
                found.add(path)
                left += [ROOT / path] if path.endswith(".md") else []
    return found

"""The program that a restricted host has instead of those that are sent to others: one file of the same modules.

All of `onhost` is in it, but what makes a host a restricted one; what it may be asked there, `onhost/policy.py` says.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

from orchestrator.nodes import onhost
from orchestrator.nodes.probe import module_texts

_PACKAGE: Final = onhost.__name__
_NOT_THERE: Final = ("__init__", "restricting")
# Of the same modules the same bytes, whenever and wherever they are packed.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


@cache
def version() -> str:
    """A digest of the modules: a host that has others is told from one that has these."""
    hashed = hashlib.sha256()
    for name, text in sorted(_modules().items()):
        hashed.update(f"{name}\0{text}\0".encode())
    return hashed.hexdigest()


@cache
def host_program() -> bytes:
    """A zip file that Python runs as it is."""
    files = dict(_modules())
    files["__main__.py"] = f'from {_PACKAGE}.restricted import main\n\nmain("{version()}")\n'
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, text)
    return packed.getvalue()


def _modules() -> Mapping[str, str]:
    """By its file, the text of each module; packages are names to import from and nothing else."""
    parts = sorted(each.stem for each in Path(onhost.__path__[0]).glob("*.py") if each.stem not in _NOT_THERE)
    texts = dict(module_texts("orchestrator.whole_file", *(f"{_PACKAGE}.{each}" for each in parts), "pynvml"))
    packages = ("orchestrator", "orchestrator.nodes", _PACKAGE)
    return {
        **{f"{name.replace('.', '/')}/__init__.py": "" for name in packages},
        **{f"{name.replace('.', '/')}.py": text for name, text in texts.items()},
    }

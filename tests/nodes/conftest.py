"""A played NVML: real pynvml and a real shared library, whose GPUs are what a test writes down."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

STUB = Path(__file__).parent / "nvml_stub" / "nvml_stub.c"

# Plays the lines as NVML's world, from the next probe on. `driver` is one of the folders that `nvml_libraries` makes.
Play = Callable[..., None]


@pytest.fixture(scope="session")
def nvml_libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one libnvidia-ml.so.1 each in `today`, in `old` (before driver 470), and a broken one in `none`."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip(
            "no C compiler (cc, gcc) to build the played libnvidia-ml.so.1 with; tests/system_packages.sh has it"
        )
    folder = tmp_path_factory.mktemp("nvml")
    for driver, flags in (("today", []), ("old", ["-DOLD_DRIVER"])):
        target = folder / driver / "libnvidia-ml.so.1"
        target.parent.mkdir()
        command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1", *flags]
        subprocess.run([*command, "-o", str(target), str(STUB)], check=True)
    (folder / "none").mkdir()
    # An empty file ends the search for the library, also on a host that has a real one further down the path.
    (folder / "none" / "libnvidia-ml.so.1").touch()
    return folder


@pytest.fixture
def play(nvml_libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Play:
    def write(*lines: str, driver: str = "today") -> None:
        script = tmp_path / "nvml-script"
        script.write_text("driver 550.54.15\ncuda 12040\n" + "".join(f"{line}\n" for line in lines))
        monkeypatch.setenv("NVML_STUB", str(script))
        monkeypatch.setenv("LD_LIBRARY_PATH", str(nvml_libraries / driver))

    return write

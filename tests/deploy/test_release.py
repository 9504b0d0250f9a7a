"""What is released: the same wheel from the same files wherever it is built, what is in it, and what is under it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RELEASED = "1700000000"  # when, in seconds since 1970


def wheel(source: Path, folder: Path) -> Path:
    """As `make release` builds it."""
    command = [sys.executable, "-m", "flit_core.wheel", "--outdir", str(folder)]
    subprocess.run(
        command, cwd=source, env={**os.environ, "SOURCE_DATE_EPOCH": RELEASED}, check=True, capture_output=True
    )
    [built] = folder.glob("*.whl")
    return built


def copy(folder: Path, mode: int) -> Path:
    """Another checkout: later, elsewhere, by a user with another umask."""
    for each in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / each, folder / each)
    shutil.copytree(
        ROOT / "orchestrator", folder / "orchestrator", copy_function=shutil.copyfile, ignore=ignored_by_git
    )
    for each in folder.rglob("*.py"):
        each.chmod(mode)
    return folder


def ignored_by_git(_: str, names: list[str]) -> list[str]:
    return [each for each in names if each == "__pycache__"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel(copy(tmp_path_factory.mktemp("one"), 0o644), tmp_path_factory.mktemp("out"))


def test_a_wheel_is_the_same_byte_for_byte_wherever_it_is_built(built: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "two", tmp_path / "out"
    source.mkdir()
    again = wheel(copy(source, 0o600), out)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(built.read_bytes()).digest()


def test_a_wheel_has_all_that_is_shipped_and_nothing_else(built: Path) -> None:
    names = {each for each in zipfile.ZipFile(built).namelist() if not each.endswith("/")}
    shipped = {
        str(each.relative_to(ROOT))
        for each in (ROOT / "orchestrator").rglob("*")
        if each.is_file() and "__pycache__" not in each.parts
    }
    assert {each for each in names if ".dist-info/" not in each} == shipped


def test_the_bill_of_materials_names_each_package_with_the_digests_it_is_held_to(tmp_path: Path) -> None:
    bill = tmp_path / "sbom.json"
    command = [str(Path(sys.executable).parent / "cyclonedx-py"), "requirements", "requirements.txt"]
    options = ["--pyproject", "pyproject.toml", "--output-reproducible", "--of", "JSON", "-o", str(bill)]
    subprocess.run([*command, *options], cwd=ROOT, check=True, capture_output=True)
    told = json.loads(bill.read_text())
    assert told["metadata"]["component"]["name"] == "ollama-orchestrator"
    found = {
        (each["name"], each["version"]): {
            digest["content"] for source in each["externalReferences"] for digest in source.get("hashes", ())
        }
        for each in told["components"]
    }
    assert found == locked((ROOT / "requirements.txt").read_text())


def locked(text: str) -> dict[tuple[str, str], set[str]]:
    """Packages of a lock file with their versions and digests."""
    found: dict[tuple[str, str], set[str]] = {}
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        if package := re.match(r"([a-z0-9._-]+)==([^\s;]+)", entry):
            found[package[1], package[2]] = set(re.findall(r"sha256:([0-9a-f]{64})", entry))
    return found


def test_signed_digests_are_refused_once_a_file_or_a_signer_is_another(tmp_path: Path) -> None:
    """The steps of docs/release.md, by OpenSSH's own tools."""
    keygen = shutil.which("ssh-keygen")
    if keygen is None:
        pytest.skip("ssh-keygen is not there (apt-get install openssh-client)")

    def run(*arguments: str, given: bytes = b"") -> int:
        return subprocess.run([keygen, *arguments], cwd=tmp_path, input=given, capture_output=True).returncode

    for name in ("release", "other"):
        assert run("-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name) == 0
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("00 *some.whl\n")
    public = (tmp_path / "release.pub").read_text()
    (tmp_path / "signers").write_text(f'release@example.org namespaces="ollama-orchestrator" {public}')
    verify = ("-Y", "verify", "-f", "signers", "-I", "release@example.org", "-n", "ollama-orchestrator", "-s")

    assert run("-Y", "sign", "-f", "release", "-n", "ollama-orchestrator", "SHA256SUMS") == 0
    assert run(*verify, "SHA256SUMS.sig", given=sums.read_bytes()) == 0
    assert run(*verify, "SHA256SUMS.sig", given=b"11 *some.whl\n") != 0
    sums.with_name("SHA256SUMS.sig").unlink()
    assert run("-Y", "sign", "-f", "other", "-n", "ollama-orchestrator", "SHA256SUMS") == 0
    assert run(*verify, "SHA256SUMS.sig", given=sums.read_bytes()) != 0

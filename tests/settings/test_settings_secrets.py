"""Secrets and paths that a settings file names: where they come from, and what is refused without repeating one."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.settings import load, parse
from tests.settings.refusing import only_refusal, refusal

SECRET = "0123456789abcdef"


def key_file(folder: Path, keys: str, *, secret: bytes = SECRET.encode() + b"\n", mode: int = 0o600) -> Path:
    (folder / "key").write_bytes(secret)
    (folder / "key").chmod(mode)
    path = folder / "cluster.yaml"
    path.touch(mode=0o600)
    path.write_text(f"models: {{a: }}\nkeys:\n{keys}\n")
    return path


def test_secrets_come_from_the_file_the_environment_or_a_file_beside_it(tmp_path):
    path = key_file(
        tmp_path,
        f"  - {{name: a, secret: x{SECRET}}}\n  - {{name: b, secret: 'env:B'}}\n  - {{name: c, secret: 'file:key'}}",
    )
    settings = parse(path.read_text(), str(path), environment={"B": f"y{SECRET}\n"})
    assert [each.secret.get_secret_value() for each in settings.keys] == ["x" + SECRET, "y" + SECRET, SECRET]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("env:NOT_SET_ANYWHERE", "the environment variable 'NOT_SET_ANYWHERE' is not set"),
        ("file:none", "no such file"),
        ("file:.", "is not a file"),
        ("file:~no-such-user/key", "no such file"),
        ("file:key/key", "no such file"),
        ('"file:a\\0b"', "cannot be read"),
        ("tooshort", "has 8 characters, at least 16"),
        ("has blanks in it, many", "blanks or characters outside ASCII"),
        ("şifreşifreşifreşifre", "blanks or characters outside ASCII"),
        ("'********'", "a mask printed in a secret's place"),
        ("1234567890123456", "expected text, such as secret: env:SUPPORT_KEY; got a number, which in quotes is text"),
    ],
)
def test_a_secret_that_is_not_there_or_no_good_is_refused(tmp_path, entry, words):
    path = key_file(tmp_path, f"  - name: a\n    secret: {entry}")
    with pytest.raises(SettingsError) as raised:
        load(path)
    assert f"{path}:4:13: keys[0].secret: " in str(raised.value)
    assert words in str(raised.value)


@pytest.mark.parametrize(("mode", "is_taken"), [(0o600, True), (0o640, True), (0o604, False), (0o644, False)])
def test_a_secrets_file_that_every_user_may_read_is_refused(tmp_path, mode, is_taken):
    path = key_file(tmp_path, "  - {name: a, secret: 'file:key'}", mode=mode)
    if is_taken:
        assert load(path).keys[0].secret.get_secret_value() == SECRET
    else:
        with pytest.raises(SettingsError, match="chmod 600"):
            load(path)


def test_a_secrets_file_that_is_not_text_is_refused(tmp_path):
    path = key_file(tmp_path, "  - {name: a, secret: 'file:key'}", secret=b"\xff" * 20)
    with pytest.raises(SettingsError, match="does not hold text"):
        load(path)


def test_two_keys_may_share_neither_name_nor_secret():
    keys = f"keys: [{{name: a, secret: {SECRET}}}, {{name: b, secret: {SECRET}}}, {{name: a, secret: z{SECRET}}}]"
    lines = refusal(f"models: {{m: }}\n{keys}")
    assert "keys[1].secret: is the secret of key 'a' too" in lines[0]
    assert "keys[2].name: key 'a' is there already, as keys[0]" in lines[1]


@pytest.mark.parametrize(
    "text",
    [
        "keys: [{name: 7, secrett: hunter2hunter2, secret: hunter2}]",
        "keys: {name: a, secret: hunter2hunter2hunter2}",
        "keys: hunter2hunter2",
        "keys: [hunter2hunter2]",
        "keys: [{name: hunter2 hunter2, secret: !!int hunter2}]",
        "keys: [{name: a, secret: hunter2hunter2hunter2}, {name: b, secret: hunter2hunter2hunter2}]",
        "redis: redis://:hunter2@host:port/0",
        "redis: redis://:hunter2@",
        "redis: http://:hunter2@host",
        "redis: redis://:hunter2@[::1",
        "redis: [hunter2]",
    ],
)
def test_no_error_repeats_a_secret(text):
    assert "hunter2" not in "\n".join(refusal(f"models: {{a: }}\n{text}")).replace("secrett", "")


def test_paths_are_relative_to_the_file_and_must_exist(tmp_path):
    path = tmp_path / "cluster.yaml"
    (tmp_path / "faq.yaml").write_text("[]")
    (tmp_path / "weights").mkdir()
    path.write_text("models: {a: {gguf: w.gguf}}\ncache: {faq: [faq.yaml, none.yaml, weights]}\n")
    with pytest.raises(SettingsError) as raised:
        load(path)
    gguf, missing, folder = str(raised.value).splitlines()
    assert f"{path}:1:20: models.a.gguf: no such file: {tmp_path / 'w.gguf'}" in gguf
    assert "2:25: cache.faq[1]: no such file" in missing
    assert "2:36: cache.faq[2]" in folder
    assert "is a folder" in folder
    path.write_text("models: {a: }\ncache: {faq: [faq.yaml]}\n")
    assert load(path).cache.faq == (tmp_path / "faq.yaml",)


@pytest.mark.parametrize("path", ["~no-such-user/faq.yaml", "'a\\0b'", '"a\\0b"', "x" * 300, "/etc/passwd/x"])
def test_a_path_that_cannot_be_is_refused_like_any_other(path):
    assert "cluster.yaml:2:15: cache.faq[0]: " in only_refusal(f"models: {{a: }}\ncache: {{faq: [{path}]}}")


def test_gguf_weights_for_ollama_are_a_key_that_nothing_uses(tmp_path):
    (tmp_path / "w.gguf").touch()
    path = tmp_path / "cluster.yaml"
    path.write_text("engine: ollama\nmodels: {a: {gguf: w.gguf}}\n")
    with pytest.raises(SettingsError, match=r"set `engine: llama\.cpp` or leave this out"):
        load(path)

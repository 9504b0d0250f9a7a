"""A settings file that everybody may read holds no secret itself; the password of an outside Redis stands elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.app.backing_up import redis_in
from orchestrator.core.errors import SettingsError
from orchestrator.settings import load
from orchestrator.store.address import parse_url

LONG = 4 * "0123abcd"
AWAY = "models: {m: }\ntiers: {small: {model: m}, full: {provider: p, model: x}}\nroutes: {auto: }\n"
PLAIN = [
    (f"models: {{m: }}\nkeys: [{{name: a, secret: {LONG}}}]", "2:26: keys[0].secret"),
    (f"models: {{m: }}\ncache: {{secret: {LONG}}}", "2:17: cache.secret"),
    (f"models: {{m: }}\ncache: {{encryption_key: {LONG}}}", "2:25: cache.encryption_key"),
    (f"{AWAY}providers: {{p: {{url: 'https://p.test/v1', key: {LONG}}}}}", "4:48: providers.p.key"),
    (
        f"{AWAY}providers: {{p: {{url: 'https://p.test/v1', headers: {{X-Title: us, api-key: {LONG}}}}}}}",
        "4:75: providers.p.headers.api-key",
    ),
    (
        f"models: {{m: }}\ntraces: {{endpoint: 'https://o.test', headers: {{x-honeycomb-team: {LONG}}}}}",
        "2:66: traces.headers.x-honeycomb-team",
    ),
    (f"models: {{m: }}\nredis: redis://user:{LONG}@10.0.0.5:6379/0", "2:8: redis"),
    (f"models: {{m: }}\nredis: redis://10.0.0.5\nredis_password: {LONG}", "3:17: redis_password"),
]


def written(folder: Path, text: str, mode: int) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(("text", "where"), PLAIN, ids=[where.rpartition(" ")[2] for _, where in PLAIN])
def test_a_secret_in_a_file_that_everybody_may_read_is_refused_with_both_ways_out(
    tmp_path: Path, text: str, where: str
) -> None:
    for mode in (0o600, 0o640):
        load(written(tmp_path, text, mode))
    path = written(tmp_path, text, 0o644)
    with pytest.raises(SettingsError) as raised:
        load(path)
    (line,) = str(raised.value).splitlines()
    assert line.startswith(f"{path}:{where}: every user of this machine may read {path}")
    assert f"chmod 600 {path}, or " in line
    assert "env:NAME" in line
    assert LONG not in line


def test_what_names_a_secret_or_is_known_by_a_digest_may_be_read_by_everybody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_SECRET", LONG)
    digest = f"sha256:{8 * 'c0ffee12'}"
    load(
        written(
            tmp_path,
            f"{AWAY}providers: {{p: {{url: 'https://p.test/v1', key: env:A_SECRET, headers: {{X-Title: us}}}}}}\n"
            f"keys: [{{name: a, secret: env:A_SECRET}}, {{name: b, digest: '{digest}'}}]\n"
            "redis: redis://user@10.0.0.5:6379/0\nredis_password: env:A_SECRET\n",
            0o644,
        )
    )


@pytest.mark.parametrize(
    "redis",
    ["redis://h:6379/1", "rediss://gate%40way@h?ca=/c.pem", "unix:///run/r.sock?db=1", "sentinel://u@a,b:2/main"],
)
def test_the_password_of_redis_comes_from_a_file_or_the_environment_whatever_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis: str
) -> None:
    password = "p@ss:w/rd?&#% ü"
    (tmp_path / "password").write_text(password + "\n")
    (tmp_path / "password").chmod(0o600)
    monkeypatch.setenv("REDIS_PASSWORD", password)
    for where in ("env:REDIS_PASSWORD", "file:password"):
        path = written(tmp_path, f"models: {{m: }}\nredis: {redis}\nredis_password: {where}", 0o644)
        settings = load(path)
        assert settings.redis == redis_in(path)
        told, plain = parse_url(settings.redis), parse_url(redis)
        assert (told.password, told.username, str(told)) == (password, plain.username, str(plain))
        assert settings.redis_password is None


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("redis_password: env:NOT_SET_ANYWHERE\nredis: redis://h", "'NOT_SET_ANYWHERE' is not set"),
        ("redis_password: file:none", "the embedded one has none; name it in `redis`"),
        ("redis_password: file:none\nredis: redis://:a@h", "stands in `redis` already"),
        ("redis_password: '********'\nredis: redis://h", "a mask"),
    ],
)
def test_a_password_of_redis_that_cannot_be_is_refused(tmp_path: Path, text: str, why: str) -> None:
    path = written(tmp_path, f"models: {{m: }}\n{text}", 0o600)
    with pytest.raises(SettingsError) as raised:
        load(path)
    assert f"{path}:2:17: redis_password: " in str(raised.value)
    assert why in str(raised.value)


@pytest.mark.parametrize(
    "text",
    [
        "models: {m: }\ncache: {encryption_key: 12345678901234567}",
        "models: {m: }\ntraces: {endpoint: 'https://o.test', headers: {Authorization: 12345678901234567}}",
        "models: {m: }\ndeploy: {ollama: 'https://user:12345678901234567@example.com/ollama'}",
    ],
)
def test_what_may_be_a_secret_is_not_repeated_where_it_is_wrong(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as raised:
        load(written(tmp_path, text, 0o600))
    assert "12345678901234567" not in str(raised.value)

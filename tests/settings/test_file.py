"""A settings file is taken whole or refused with everything that is wrong with it, each with its line and way out."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import SettingsError
from orchestrator.settings import ClusterSettings, ModelSettings, load, parse
from orchestrator.settings.reference import EXAMPLE, annotated
from orchestrator.settings.syntax import host_and_port

GOOD = """\
models:
  small-model:
  big-model: {slots: 1}
  words: {embedding: true}
tiers:
  small: {model: small-model, backup: full}
  full: {model: big-model, backup: small}
routes:
  auto:
"""


def refusal(text: str) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        parse(text, "cluster.yaml")
    return str(raised.value).splitlines()


def only_refusal(text: str) -> str:
    (line,) = refusal(text)
    return line


# --- what is taken ---------------------------------------------------------------------------------------------------


def test_a_model_alone_is_a_cluster_and_takes_every_default():
    settings = parse("models:\n  llama3.2:3b:\n", "cluster.yaml")
    assert settings == ClusterSettings(models={"llama3.2:3b": ModelSettings()})


def test_instances_that_run_already_are_a_cluster_too():
    text = "instances:\n  - url: http://gpu-1:11434/\n  - {url: http://gpu-2:11434, model: [a, b], slots: 4}\n"
    one, other = parse(text, "cluster.yaml").instances
    assert (one.url, one.address, one.label, one.models) == (
        "http://gpu-1:11434",
        ("gpu-1", 11434),
        "gpu-1:11434",
        (),
    )
    assert (other.models, other.slots) == (("a", "b"), 4)


def test_a_tier_may_name_what_only_the_instances_know():
    text = "instances: [{url: 'http://a:1'}]\ntiers: {small: {model: x}, full: {model: y}}\nroutes: {auto: }"
    assert parse(text, "cluster.yaml").tiers["small"].model == "x"


def test_one_server_may_stand_in_several_entries_for_several_models():
    text = "instances: [{url: 'http://a:1', name: n, model: x, slots: 4}, {url: 'http://a:1', slots: 1}]"
    assert [each.slots for each in parse(text, "cluster.yaml").instances] == [4, 1]


def test_sections_with_everything_commented_out_are_empty():
    text = GOOD + "cache:\n  # ttl_s: 3\nlimits:\nkeys:\ngateway:\n"
    assert parse(text, "cluster.yaml") == parse(GOOD, "cluster.yaml")


def test_off_is_the_word_and_not_false():
    text = GOOD.replace("auto:", "auto: {cache: off}")
    assert parse(text, "cluster.yaml").routes["auto"].cache == "off"


def test_two_tiers_may_be_each_others_backup():
    assert parse(GOOD, "cluster.yaml").tiers["full"].backup == "small"


def test_a_model_that_no_tier_uses_is_fine():
    assert "words" in parse(GOOD, "cluster.yaml").models


def test_an_integer_is_a_number():
    assert parse(GOOD + "limits: {queue_wait_s: 5}", "cluster.yaml").limits.queue_wait_s == 5.0


# --- what is refused, one thing at a time ----------------------------------------------------------------------------

PLACED = [
    ("models: {a: }\nlistem: x", "cluster.yaml:2:1: listem: no such setting; did you mean 'listen'?"),
    ("models:\n  a: {slot: 3}", "cluster.yaml:2:7: models.a.slot: no such setting; did you mean 'slots'?"),
    (
        "models:\n  a: {workers: 3}",
        "cluster.yaml:2:7: models.a.workers: no such setting here; 'workers' belongs under gateway",
    ),
    (
        "models: {a: }\ngateway: {zzz: 3}",
        "cluster.yaml:2:11: gateway.zzz: no such setting; settings here are: workers",
    ),
    (
        "models:\n  a:\n    slots: '4'",
        "cluster.yaml:3:12: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got '4'",
    ),
    (
        "models: {a: {slots: true}}",
        "cluster.yaml:1:21: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got true",
    ),
    (
        "models: {a: {slots: 65}}",
        "cluster.yaml:1:21: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got 65",
    ),
    (
        "models: {a: {slots: 2.0}}",
        "cluster.yaml:1:21: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got 2.0",
    ),
    (
        "models: {a: {slots: }}",
        "cluster.yaml:1:20: models.a.slots: expected a whole number from 1 to 64, such as slots: 2; got nothing",
    ),
    (
        "models: {a: {replicas: 0}}",
        "cluster.yaml:1:24: models.a.replicas: "
        "expected a whole number from 1 to 1024 or fill or auto, such as replicas: 1; got 0",
    ),
    (
        "models: {a: {embedding: yes}}",
        "cluster.yaml:1:25: models.a.embedding: expected true or false, such as embedding: false; got 'yes'",
    ),
    (
        "models: {a: }\nlimits: {queue_wait_s: .inf}",
        "cluster.yaml:2:24: limits.queue_wait_s: expected a number above 0, at most 86400, such as queue_wait_s: 60.0; "
        "got inf",
    ),
    (
        "models: {a: {gguf: [x]}}",
        "cluster.yaml:1:14: models.a.gguf: expected a path, such as gguf: models/mistral-7b.Q4_K_M.gguf; got a list",
    ),
    (
        "models: {a: }\nengine: olama",
        "cluster.yaml:2:9: engine: expected auto, ollama or llama.cpp, such as engine: auto; got 'olama'",
    ),
    (
        "models: {a: }\nlisten: 11434",
        "cluster.yaml:2:9: listen: expected text, such as listen: 0.0.0.0:11434; got 11434, which in quotes is text",
    ),
    (
        "models: {}",
        "cluster.yaml:1:1: models: needs one entry at least, such as models: {NAME: {slots: 2}}; or name `instances` "
        "that run already",
    ),
    (
        "redis: embedded",
        "cluster.yaml:1:1: models: needs one entry at least, such as models: {NAME: {slots: 2}}; or name `instances` "
        "that run already",
    ),
    (
        "instances: [{model: a}]",
        "cluster.yaml:1:13: instances[0].url: is missing; write text, such as url: http://10.0.0.5:11434",
    ),
    (
        "instances: [{url: 'ftp://gpu-1:443'}]",
        "cluster.yaml:1:19: instances[0].url: expected http://host:port, such as http://10.0.0.5:11434, or "
        "https://host:port",
    ),
    (
        "instances: [{url: 'gpu-1:11434'}]",
        "cluster.yaml:1:19: instances[0].url: expected http://host:port, such as http://10.0.0.5:11434, or "
        "https://host:port",
    ),
    (
        "instances: [{url: 'http://gpu-1:11434/v1'}]",
        "cluster.yaml:1:19: instances[0].url: an instance has its API at the root; end the URL after the port",
    ),
    (
        "instances: [{url: 'http://gpu-1'}]",
        "cluster.yaml:1:19: instances[0].url: expected host:port, such as 127.0.0.1:11434 or [::]:11434; got 'gpu-1'",
    ),
    (
        "instances: [{url: 'http://gpu-1:0'}]",
        "cluster.yaml:1:19: instances[0].url: the port must be a number from 1 to 65535",
    ),
    (
        "instances: [{url: 'http://me:secret@gpu-1:1'}]",
        "cluster.yaml:1:19: instances[0].url: neither Ollama nor llama.cpp asks for a user; leave out what stands "
        "before the `@`",
    ),
    (
        "instances: [{url: 'http://[::1]:1'}]",
        "cluster.yaml:1:19: instances[0].url: an IPv6 address is not taken here; name the host, as /etc/hosts or DNS "
        "knows it",
    ),
    (
        "instances: [{url: 'http://a:1', slots: 0}]",
        "cluster.yaml:1:40: instances[0].slots: "
        "expected a whole number from 1 to 1024 or probe, such as slots: 4; got 0",
    ),
    (
        "instances: [{url: 'http://a:1', model: [a, 'b c']}]",
        "cluster.yaml:1:44: instances[0].model[1]: expected a model's name: letters, digits and . _ : / @ -, a letter "
        "or digit first; got 'b c'",
    ),
    (
        "instances: [{url: 'http://a:1', model: {a: }}]",
        "cluster.yaml:1:33: instances[0].model: expected a model's name: letters, digits and . _ : / @ -, a letter or "
        "digit first or a list of such, such as model: llama3.2:3b; got a mapping",
    ),
    (
        "instances: [{url: 'http://a:1'}, {url: 'http://a:1/'}]",
        "cluster.yaml:1:40: instances[1].url: is there already, as instances[0]; keep one of them",
    ),
    (
        "instances: [{url: 'http://a:1', model: [x, y]}, {url: 'http://a:1', model: 'x:latest'}]",
        "cluster.yaml:1:76: instances[1].model: instances[0] has 'x:latest' of this URL already; keep one of them",
    ),
    (
        "instances: [{url: 'http://a:1', model: x, name: one}, {url: 'http://a:1', model: y, name: two}]",
        "cluster.yaml:1:91: instances[1].name: instances[0] has the same URL and says otherwise; keep one of them",
    ),
    (
        "instances: [{url: 'http://a:1', name: one}, {url: 'http://b:1', name: one}]",
        "cluster.yaml:1:71: instances[1].name: instance 'one' is there already, as instances[0]; give this one another "
        "name",
    ),
    (
        "instances: [{url: 'http://a:1', model: 'gpt-oss:120b-cloud'}]",
        "cluster.yaml:1:40: instances[0].model: 'gpt-oss:120b-cloud' is served by ollama.com: prompts would leave the "
        "cluster; name one that is downloaded",
    ),
    (
        "instances: [{url: 'http://a:1'}]\nmodels: {x: {slots: 3, replicas: 2}}",
        "cluster.yaml:2:34: models.x.replicas: is of no use beside `instances`: nothing is deployed; leave it out",
    ),
    (
        "instances: [{url: 'http://a:1'}]\nengine: ollama",
        "cluster.yaml:2:9: engine: is of no use beside `instances`: nothing is deployed; leave it out",
    ),
    (
        "instances: [{url: 'http://a:1', model: x}]\nroutes:\n  x: {small: t, full: t}\ntiers: {t: {model: x}}",
        "cluster.yaml:3:3: routes.x: 'x' is a model already; give the route another name",
    ),
    (
        "models: [a]",
        "cluster.yaml:1:1: models: expected a mapping from names to settings, such as models: {NAME: {slots: 2}}; "
        "got a list",
    ),
    ("models: {a: }\nnodes: []", "cluster.yaml:2:1: nodes: needs one entry at least, such as nodes: [{name: gpu-1}]"),
    (
        "models: {a: }\nnodes:\n  - name: GPU 1",
        "cluster.yaml:3:11: nodes[0].name: expected lower-case letters, digits and hyphens, at most 63, a letter or "
        "digit first, such as name: gpu-1; got 'GPU 1'",
    ),
    (
        "models: {a: }\ncache: {faq: x.yaml}",
        "cluster.yaml:2:14: cache.faq: expected a list of paths, such as faq: [faq.yaml]; got 'x.yaml'",
    ),
    (
        "models:\n  'a b':",
        "cluster.yaml:2:3: models.\"a b\": 'a b' cannot be a name here; expected a model's name: letters, digits and "
        ". _ : / @ -, a letter or digit first",
    ),
    (
        "models: {a: }\nnodes: [{name: a}, {name: b, address: h-1234}, {name: c}]",
        "cluster.yaml:2:48: nodes[2]: node 'a' is this machine already; remove one of them",
    ),
    (
        "models: {a: }\nnodes: [{name: a}, {name: a, address: h}]",
        "cluster.yaml:2:27: nodes[1].name: node 'a' is there already, as nodes[0]; give this one another name or "
        "remove it",
    ),
    *(
        (
            f"models: {{a: }}\nnodes: [{{name: a{real}}}, {{name: b, simulate: 1x L4}}]",
            "nodes[1].simulate: node 'a' is real, and played cards answer with played texts; play all nodes, or leave "
            "this out",
        )
        for real in ("", ", address: h")
    ),
    (
        "models: {a: {share: 2}}",
        "cluster.yaml:1:21: models.a.share: only pools with `replicas: fill` share room; set that or leave this out",
    ),
    (
        "models:\n  a:latest:\n  a:",
        "cluster.yaml:2:3: models.\"a:latest\": is the same model as 'a'; keep one of them",
    ),
    (
        "models:\n  a:\n  gpt-oss:120b-cloud:",
        'cluster.yaml:3:3: models."gpt-oss:120b-cloud": is served by ollama.com: prompts would leave the cluster; name '
        "a model that is downloaded",
    ),
    (GOOD.replace("{slots: 1}", "{slots: 1, slots: 1}"), "written twice, first on line 3; keep one of them"),
    (
        GOOD.replace("model: big-model", "model: bigmodel"),
        "cluster.yaml:7:17: tiers.full.model: no such model 'bigmodel'; did you mean 'big-model'? models are: "
        "small-model, big-model, words",
    ),
    (
        GOOD.replace("model: big-model", "model: words"),
        "cluster.yaml:7:17: tiers.full.model: 'words' embeds text and answers nothing; models that can be: "
        "small-model, big-model",
    ),
    (
        GOOD.replace("backup: small", "backup: xyz"),
        "cluster.yaml:7:36: tiers.full.backup: no such tier 'xyz'; tiers are: small, full",
    ),
    (
        GOOD.replace("backup: small", "backup: full"),
        "cluster.yaml:7:36: tiers.full.backup: a tier is no backup of itself; tiers that can be: small",
    ),
    (
        GOOD.replace("auto:", "auto: {full: big}"),
        "cluster.yaml:9:16: routes.auto.full: no such tier 'big'; tiers are: small, full",
    ),
    (
        "models: {a: }\nroutes:\n  auto: {full: big, small: big}\ntiers:",
        "cluster.yaml:3:16: routes.auto.full: no such tier 'big'; there are no tiers yet",
    ),
    (
        GOOD.replace("  auto:", "  auto:\n  words:"),
        "cluster.yaml:10:3: routes.words: 'words' is a model already; give the route another name",
    ),
    (
        GOOD.replace("  auto:", "  auto:\n  words:latest:"),
        "cluster.yaml:10:3: routes.\"words:latest\": 'words' is a model already; give the route another name",
    ),
    (
        GOOD.replace("routes:", "  deep: {model: big-model}\nroutes:"),
        "cluster.yaml:8:3: tiers.deep: no route uses this tier; name it in a route, or as `backup` of a tier that a "
        "route reaches, or remove it",
    ),
]


@pytest.mark.parametrize(("text", "expected"), PLACED, ids=[expected[13:60] for _, expected in PLACED])
def test_each_mistake_is_told_with_line_column_field_and_way_out(text, expected):
    assert any(expected in line for line in refusal(text))


@pytest.mark.parametrize("text", [text for text, _ in PLACED])
def test_each_mistake_breeds_no_other(text):
    assert len(refusal(text)) == (2 if "small: big" in text else 1)


def test_a_backups_own_backup_is_a_use_of_a_tier():
    text = GOOD.replace("routes:", "  deep: {model: big-model}\nroutes:")
    text = text.replace("model: small-model, backup: full", "model: small-model, backup: mid")
    text = text.replace("routes:", "  mid: {model: big-model, backup: deep}\nroutes:")
    assert [*parse(text, "cluster.yaml").tiers] == ["small", "full", "deep", "mid"]


# --- all of it at once -----------------------------------------------------------------------------------------------


def test_all_that_is_wrong_is_listed_at_once_in_the_order_of_the_file():
    lines = refusal(
        "listen: nowhere\n"  # 1
        "models:\n"
        "  a: {slots: 0, slots: 1}\n"  # 3: a value, and a key written twice
        "  e: {embedding: true}\n"
        "nodes: [{name: n, simulate: none}]\n"  # 5
        "tiers:\n"
        "  small: {model: b, backup: smal}\n"  # 7: two references
        "  full: e\n"  # 8: a type
        "routes:\n"
        "  e: {small: x}\n"  # 10: a name, a reference
        "keys:\n"
        "  - 3\n"  # 12: an item that is nothing of the kind
        "  - {name: x, secret: short}\n"  # 13: counted as it is written
        "  - {name: x}\n"  # 14: repeated, and incomplete
        "wat: 1\n"
    )
    assert [int(line.split(":")[1]) for line in lines] == [1, 3, 3, 5, 7, 7, 8, 10, 10, 12, 13, 14, 14, 15]
    assert "keys[1].secret" in lines[10]
    assert "keys[2].secret: is missing" in lines[11]


def test_wrong_parts_are_not_said_to_be_missing():
    text = GOOD.replace("model: small-model,", "model: small-model, bakup: 3,").replace("auto:", "auto: {full: 3}")
    assert len(refusal(text)) == 2  # and no tier is said to be unused, though `full` is named by no valid route


def test_a_hopeless_file_does_not_flood_the_screen():
    lines = refusal("models: {a: }\n" + "".join(f"k{n}: 1\n" for n in range(300)))
    assert len(lines) == 101
    assert lines[-1] == "cluster.yaml: and 200 more"


def test_a_name_with_a_line_break_stays_on_its_line():
    assert len(refusal('models: {"a\\nb": }')) == 1


# --- the file itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty; it needs `models:`"),
        (b"# nothing\n\n", "the file is empty"),
        (b"---\n", "the file is empty"),
        (b"just words", "expected a mapping"),
        (b"- a\n- b\n", "expected a mapping"),
        (b"a: 1\nb: \xff\xfe", ":2: is not UTF-8 text"),
        ("models:".encode("utf-16"), ":1: is not UTF-8 text"),
        (b"a: [", ":1:5: not valid YAML"),
        (b"#" + b"x" * 2**20, "larger than 1 MiB"),
        (b"#" + "ş".encode() * 2**20, "larger than 1 MiB"),
    ],
)
def test_a_file_that_is_no_settings_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "cluster.yaml"
    path.write_bytes(content)
    with pytest.raises(SettingsError) as raised:
        load(path)
    assert str(raised.value).startswith(f"{path}:")
    assert words in str(raised.value)


def test_a_mark_before_the_text_and_foreign_line_ends_are_read(tmp_path):
    path = tmp_path / "cluster.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load(path) == parse(GOOD, str(path))


def test_a_missing_file_a_folder_and_a_loop_of_links_are_told_apart(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, words in (("none", "no such file"), (".", "is a folder"), ("loop", "cannot be read")):
        with pytest.raises(SettingsError, match=words):
            load(tmp_path / name)


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Root reads every file: as root the test is somebody else for a while."""
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)
    yield
    os.seteuid(me)


def test_a_file_closed_to_us_is_told_as_such(tmp_path, request):
    path = tmp_path / "cluster.yaml"
    path.write_text(GOOD)
    path.chmod(0)
    request.getfixturevalue("unprivileged")
    with pytest.raises(SettingsError, match="may not be read by this user"):
        load(path)


# --- secrets and paths -----------------------------------------------------------------------------------------------

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


# --- small languages -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("127.0.0.1:11434", ("127.0.0.1", 11434)),
        ("0.0.0.0:0", ("0.0.0.0", 0)),
        ("localhost:80", ("localhost", 80)),
        ("[::]:11434", ("::", 11434)),
        ("[FE80::1]:1", ("fe80::1", 1)),
        ("gpu-1.example.com:65535", ("gpu-1.example.com", 65535)),
    ],
)
def test_an_address_is_a_host_and_a_port(text, meant):
    assert host_and_port(text) == meant
    assert parse(f"models: {{a: }}\nlisten: '{text}'", "c").listen == text


@pytest.mark.parametrize(
    "text",
    ["", ":", "11434", ":11434", "localhost", "localhost:", "h:65536", "h:-1", "h:x", "h:٣", "h:999999999999999999999",
     "::1:11434", "[::1]", "[::g]:1", "[127.0.0.1]:1",
     "256.0.0.1:1", "1.2.3:1", "a b:1", "-a:1", "http://h:1", "h:1/x"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text):
    assert ":2:9: listen: " in only_refusal(f"models: {{a: }}\nlisten: '{text}'")


@pytest.mark.parametrize(
    "url",
    ["embedded", "redis://host", "redis://host:6379/0", "redis://user:pass@host:6379", "rediss://host",
     "redis://[::1]:6379", "redis://[::1]", "unix:///run/redis.sock", "unix://user:pass@/run/redis.sock?db=1",
     "sentinel://one:26379,two:26379/main", "sentinel://:pass@one,two/main"],
)  # fmt: skip
def test_a_redis_url_that_can_be_right_is_taken(url):
    assert parse(f"models: {{a: }}\nredis: '{url}'", "c").redis == url


@pytest.mark.parametrize(
    "url",
    ["", "host:6379", "http://host", "redis://", "redis:///0", "redis://:6379", "redis://host:x", "redis://host:99999",
     "unix://", "unix:///", "sentinel://one,,two/main", "redis://[::1"],
)  # fmt: skip
def test_a_redis_url_that_cannot_be_right_is_refused(url):
    assert ":2:8: redis: " in only_refusal(f"models: {{a: }}\nredis: '{url}'")


@pytest.mark.parametrize("cards", ["3x RTX 4090, 1x A100-40GB", "L4", "2 x rtx4090"])
def test_simulated_cards_are_counts_and_names(cards):
    assert parse(f"models: {{a: }}\nnodes: [{{name: n, simulate: '{cards}'}}]", "c").nodes[0].simulate == cards


@pytest.mark.parametrize("cards", ["", "3x ", "3x L4,", "0x L4", "99999x L4", "3x RTX 9999", "x"])
def test_cards_that_nobody_knows_are_refused_in_their_place(cards):
    line = only_refusal(f"models: {{a: }}\nnodes: [{{name: n, simulate: '{cards}'}}]")
    assert line.startswith("cluster.yaml:2:29: nodes[0].simulate: ")


LINES = [line for line in annotated(EXAMPLE).splitlines() if not line.lstrip().startswith("#")]
SCRAPS = [
    *"[]{}:,&*!|>@%'\"\n\t -#~?<\\",
    "<<: *a",
    "&a ",
    "*a",
    "null",
    "-1",
    ".inf",
    "!!int",
    "\\ud800",
    "small",
    "file:",
]


@given(st.data())
def test_whatever_is_written_is_settings_or_a_refusal_that_names_the_place(data):
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 4))):
        index = data.draw(st.integers(0, len(lines) - 1))
        column = data.draw(st.integers(0, len(lines[index])))
        scrap = data.draw(st.sampled_from(["", *SCRAPS, *lines]))
        lines[index] = lines[index][:column] + scrap + lines[index][data.draw(st.integers(column, len(lines[index]))) :]
    refused: list[str] = []
    try:
        parse("\n".join(lines), "cluster.yaml", {"SUPPORT_KEY": SECRET})
    except SettingsError as error:
        refused = str(error).splitlines()
    assert all(re.match(r"cluster\.yaml:\d+:\d+: ", line) for line in refused[:100])


def test_every_line_of_a_refusal_names_file_line_column():
    for text, _ in PLACED:
        assert all(re.match(r"cluster\.yaml:\d+:\d+: \w", line) for line in refusal(text))

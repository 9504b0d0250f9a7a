"""A settings file is read whole or refused by its name, whatever stands in it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.core.errors import SettingsError
from orchestrator.settings import ClusterSettings, ModelSettings, load, parse
from orchestrator.settings.reference import EXAMPLE, annotated
from tests.settings.refusing import GOOD

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


# --- whatever is written ----------------------------------------------------------------------------------------------


SECRET = "0123456789abcdef"
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

"""Settings changed while calls come in: a valid change is in force without a failed call, an invalid one never is."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import openai
import pytest
from callers import Callers
from running import TIMEOUT_S, Up, needs_built_in_engine, ollamactl, running, until

SETTINGS = """\
models:
  smollm2:135m: {slots: 2, context: 1024}
  smollm2-embed:135m: {embedding: true, context: 512}
tiers:
  small: {model: smollm2:135m}
  full: {model: smollm2:135m}
routes:
  auto:
cache:
  faq: [faq.yaml]
"""
FAQ = '- questions: ["who are you"]\n  answer: "%s"\n  language: en\n'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs_built_in_engine()
    made = tmp_path_factory.mktemp("live")
    (made / "cluster.yaml").write_text(SETTINGS)
    (made / "faq.yaml").write_text(FAQ % "a cluster")
    return made


@pytest.fixture(scope="module")
def up(folder: Path) -> Iterator[Up]:
    with running(folder / "state", config=folder / "cluster.yaml") as cluster:
        yield cluster


@pytest.fixture
def config(up: Up, folder: Path) -> Iterator[Path]:
    """The file, which is as it was again afterwards, and in force."""
    yield folder / "cluster.yaml"
    (folder / "cluster.yaml").write_text(SETTINGS)
    until(lambda: not known(up, "support") and not notes(up) and faq(up) == {"a cluster"}, "all is as it was")


def known(up: Up, model: str) -> bool:
    """Whether every worker knows the model: a connection each, more of them than chance could send to one alone."""
    return all(up.chat("who are you", model=model).status_code == 200 for _ in range(12))


def faq(up: Up) -> set[str]:
    """What all workers answer to the FAQ's question."""
    return {up.chat("who are you").json()["message"]["content"] for _ in range(12)}


def notes(up: Up) -> str:
    return "\n".join(each for each in up.status()["notes"] if "small brain" not in each)


def test_a_change_is_in_force_without_a_failed_call(up: Up, config: Path) -> None:
    assert up.chat("who are you", model="support").status_code == 404
    callers = Callers(up)
    with callers.asking():
        config.write_text(SETTINGS.replace("  auto:\n", "  auto:\n  support:\n"))
        until(lambda: known(up, "support"), "the new route is in force")
    assert callers.failed == []
    assert "the changed settings are in force" in up.screen
    assert up.process.poll() is None


def test_a_change_that_is_not_valid_is_refused_as_a_whole_and_the_old_settings_stay(up: Up, config: Path) -> None:
    callers = Callers(up)
    with callers.asking():
        config.write_text(SETTINGS.replace("  auto:\n", "  auto:\n  support:\n") + "cashe: {}\n")
        until(lambda: "cashe" in up.screen, "the screen says why")
        until(lambda: "cashe" in notes(up), "status says why")
    assert callers.failed == []
    assert f"cluster.yaml:{SETTINGS.count(chr(10)) + 2}" in up.screen
    assert up.chat("who are you", model="support").status_code == 404
    assert "cashe" in ollamactl("status", "--state", up.state, cwd=up.state.parent).stdout


def test_a_file_that_is_gone_changes_nothing(up: Up, config: Path) -> None:
    config.unlink()
    until(lambda: "no such file" in notes(up), "status says that it is gone")
    assert up.chat("who are you").json()["message"]["content"] == "a cluster"


def test_what_only_a_start_reads_is_said_and_the_rest_taken_over(up: Up, config: Path) -> None:
    config.write_text(SETTINGS.replace("  auto:\n", "  auto:\n  support:\n") + "gateway: {workers: 3}\n")
    until(lambda: known(up, "support"), "the new route is in force")
    assert "gateway.workers was changed and stays as it was until the next start" in up.screen


def test_the_cache_switched_off_is_off_at_once(up: Up, config: Path) -> None:
    config.write_text(SETTINGS.replace("cache:\n", "cache:\n  enabled: false\n"))
    until(lambda: up.status()["cache"]["state"] == "OFF", "status says that it is off")
    until(lambda: {up.chat("who are you").headers["X-Cache"] for _ in range(12)} == {"off"}, "it is off")


def test_sighup_reads_the_faq_again_too(up: Up, folder: Path) -> None:
    for answer in ("many clusters", "a cluster"):
        (folder / "faq.yaml").write_text(FAQ % answer)
        up.process.send_signal(signal.SIGHUP)
        until(lambda answer=answer: faq(up) == {answer}, "the new answer")
    assert up.process.poll() is None


def test_another_slot_count_replaces_the_instance_without_a_failed_call(up: Up, config: Path) -> None:
    callers = Callers(up)
    with callers.asking():
        config.write_text(SETTINGS.replace("slots: 2", "slots: 3"))
        until(lambda: {3} == {each["slots"] for each in chat_instances(up)}, "it has three slots")
        until(up.all_serve, "it serves")
    assert callers.failed == []


def chat_instances(up: Up) -> list[dict[str, object]]:
    return [each for each in up.instances() if each["pool"] == "smollm2:135m" and each["state"] == "serving"]


# --- an embedding pool ------------------------------------------------------------------------------------------------


def test_both_clients_get_embeddings(up: Up) -> None:
    texts = ["the sea", "a river"]
    one = ollama.Client(host=up.endpoint, timeout=TIMEOUT_S).embed("smollm2-embed:135m", texts)
    with openai.OpenAI(base_url=f"{up.endpoint}/v1", api_key="none", max_retries=0) as client:
        other = client.embeddings.create(model="smollm2-embed:135m", input=texts)
    vectors = [list(each) for each in one.embeddings]
    assert [len(each) for each in vectors] == [576, 576]  # the model's hidden size
    assert vectors[0] != vectors[1]
    assert other.data[1].embedding == pytest.approx(vectors[1], abs=1e-3)


def test_a_chat_is_not_asked_of_an_embedding_model(up: Up) -> None:
    told = httpx.post(
        f"{up.endpoint}/api/chat",
        json={"model": "smollm2-embed:135m", "messages": [{"role": "user", "content": "hi"}]},
        timeout=TIMEOUT_S,
    )
    assert told.status_code == 400
    assert "does not support chat" in told.json()["error"]

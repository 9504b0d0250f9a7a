"""`up --simulate`: a cluster of played cards. It is placed like a real one, and says everywhere that it is not one."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator

import ollama
import pytest
from running import CARDS, TIMEOUT_S, Up, needs_redis, ollamactl, running

SMALL, FULL = "llama3.2:3b-instruct-q4_K_M", "llama3.1:8b-instruct-q4_K_M"
HELLO = [{"role": "user", "content": "Hello, who is there?"}]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    needs_redis()
    with running(tmp_path_factory.mktemp("sim") / "state", "--simulate", CARDS) as cluster:
        yield cluster


def test_it_says_that_it_is_simulated_before_anything_else_is_asked(up: Up) -> None:
    assert up.ready["is_simulated"] is True
    assert up.ready["engine"] == "simulated ollama on GPU"
    assert [reply["is_simulated"] for reply in up.ready["replies"]] == [False, True, True], "the FAQ's is a real answer"
    assert all(reply["text"].startswith("[simulated ") for reply in up.ready["replies"][1:])
    assert any("SIMULATED" in note for note in up.ready["notes"])
    assert "SIMULATED" in up.screen


def test_no_card_holds_more_than_it_has(up: Up) -> None:
    cards = {card["uuid"]: card for node in up.status()["nodes"] for card in node["accelerators"]}
    assert Counter(card["name"] for card in cards.values()) == {"RTX 4090": 3, "A100-40GB": 1}
    used: dict[str, int] = defaultdict(int)
    for each in up.instances():
        [uuid] = each["accelerators"]
        used[uuid] += each["vram_bytes"]
    assert set(used) == set(cards), "no card is left empty"
    for uuid, bytes_used in used.items():
        assert bytes_used <= cards[uuid]["vram_total_bytes"]


def test_both_models_are_placed_where_the_plan_says(up: Up) -> None:
    told = json.loads(ollamactl("plan", "--simulate", CARDS, "--json", cwd=up.state.parent).stdout)
    planned = {(each["instance"], *each["accelerators"]) for each in told["plan"]["placements"]}
    assert {(each["id"], *each["accelerators"]) for each in up.instances()} == planned
    assert {each["pool"] for each in up.instances()} == {SMALL, FULL}
    assert all(each["state"] == "serving" for each in up.instances())


@pytest.mark.parametrize("model", ["auto", SMALL, FULL])
def test_every_answer_is_marked_in_its_text_and_its_head(up: Up, model: str) -> None:
    told = up.chat("Hello, who is there?", model=model)
    assert told.json()["message"]["content"].startswith("[simulated ")
    assert told.headers["X-Simulated"] == "true"


def test_a_streamed_answer_is_marked_too(up: Up) -> None:
    body = {"model": FULL, "messages": HELLO, "max_tokens": 16, "stream": True}
    told = up.post("/v1/chat/completions", body)
    assert told.headers["X-Simulated"] == "true"
    chunks = [json.loads(line[6:]) for line in told.text.splitlines() if line.startswith("data: {")]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text.startswith("[simulated ")


def test_status_marks_every_instance(up: Up) -> None:
    assert up.status()["is_simulated"] is True
    assert all(each["is_simulated"] for each in up.instances())
    told = ollamactl("status", "--state", up.state, cwd=up.state.parent).stdout
    assert "SIMULATED: no engine answers here" in told
    assert told.count("(simulated)") == len(up.instances())


def test_ollamas_client_sees_both_models(up: Up) -> None:
    client = ollama.Client(host=up.endpoint, timeout=TIMEOUT_S)
    assert {SMALL, FULL} <= {each.model for each in client.list().models}
    assert {each.model for each in client.ps().models} == {SMALL, FULL}
    details = client.show(FULL).details
    assert details is not None
    assert (details.parameter_size, details.quantization_level) == ("8.0B", "Q4_K_M")


def test_questions_spread_over_the_instances_of_a_pool(up: Up) -> None:
    seen = {up.chat(f"Say {number}.", model=SMALL).headers["X-Instance"] for number in range(24)}
    assert len(seen) > 1


def test_doctor_has_looked_at_every_part_and_found_nothing(up: Up) -> None:
    told = ollamactl("doctor", "--state", up.state, "--json", cwd=up.state.parent)
    findings = json.loads(told.stdout)
    unwell = {each["check"] for each in findings if each["severity"] != "ok"} - {"file limits"}
    assert unwell == {"version", "ollama settings", "certificates"}, "played engines have none of these"
    assert len({each["check"] for each in findings}) == 16
    looked_at = {each["where"] for each in findings if each["check"] == "servers"}
    assert looked_at == {each["id"] for each in up.instances()}

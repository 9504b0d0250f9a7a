"""A report of a period: its facts against calls one can count by hand, its findings, its forms."""

from __future__ import annotations

import json
from datetime import timedelta
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from orchestrator.app.reporting import facts_of_litellm, facts_of_log
from orchestrator.cli import main
from orchestrator.core.errors import HostError
from orchestrator.core.report.findings import Weight, findings
from orchestrator.core.report.markdown import markdown
from orchestrator.core.report.page import page
from tests.records.test_call_log import DAY, record, written


@pytest.fixture
def state(tmp_path):
    """60 hits, 30 of the small tier, 8 of the full one, 2 refused; an hour each."""
    calls = [
        record(DAY, tier="cache", cache="hit", why="exact", total_ms=5.0, cached_tokens=40, instance="")
        for _ in range(60)
    ]
    calls += [record(DAY, total_ms=1000.0 + n) for n in range(30)]
    of_acme = {"caller": "b", "tenant": "acme"}
    calls += [record(DAY, tier="full", total_ms=4000.0, reasoning_tokens=15, usd=0.5, **of_acme) for _ in range(8)]
    calls += [record(DAY, outcome="CapacityError", status=503, tier="full", failures=1) for _ in range(2)]
    calls = [each._replace(at_ms=each.at_ms + n * 1000) for n, each in enumerate(calls)]
    written(tmp_path / "calls", DAY, calls)
    return tmp_path


def told(facts) -> dict[Weight, list[str]]:
    found: dict[Weight, list[str]] = {}
    for each in findings(facts):
        found.setdefault(each.weight, []).append(each.told)
    return found


def test_the_facts_are_those_one_counts_by_hand(state):
    facts = facts_of_log(state / "calls", None, None)
    assert (facts.all.calls, facts.all.ok) == (100, 98)
    assert {each.name: each.calls for each in facts.tiers} == {"cache": 60, "small": 30, "full": 10}
    assert (facts.cache.hits, facts.cache.misses, facts.cache.cached_tokens) == (60, 38, 2400)
    assert facts.latency_ms.least == 5.0
    assert facts.latency_ms.most == 4000.0
    assert facts.latency_ms.mean == pytest.approx((60 * 5 + sum(1000 + n for n in range(30)) + 8 * 4000) / 98)
    full = next(each for each in facts.tiers if each.name == "full")
    assert (full.usd, full.usd_per_million) == (4.0, pytest.approx(4e6 / 600))
    assert full.reasoning_share == 8 * 15 / (10 * 20)
    assert dict(facts.outcomes) == {"ok": 98, "CapacityError": 2}
    assert sum(each.count for each in facts.latency_bars) == 98
    assert facts.retried == 2
    assert {each.name: each.calls for each in facts.tenants} == {"acme": 8}


def test_what_is_as_planned_makes_no_finding_and_what_fails_is_the_first(state):
    found = told(facts_of_log(state / "calls", None, None))
    assert found[Weight.WRONG][0] == "2.0% of 100 calls were not answered: CapacityError 2"
    assert not any("the plan says" in each for each in found.get(Weight.WORTH_KNOWING, []))


def test_a_cache_that_is_off_is_named_with_the_moment_since_when(tmp_path):
    on = [record(DAY, cache="hit", tier="cache")]
    off = [record(DAY + timedelta(hours=1, seconds=n), cache="off", why="disabled") for n in range(40)]
    written(tmp_path, DAY, [*on, *off])
    facts = facts_of_log(tmp_path, None, None)
    assert facts.cache.off_since == DAY + timedelta(hours=1)
    assert "the answer cache is OFF since 2026-11-19 01:00 UTC: 40 calls" in told(facts)[Weight.COSTLY]


def test_some_calls_without_the_cache_do_not_make_it_off(tmp_path):
    calls = [record(DAY + timedelta(seconds=n), cache="off" if n % 2 else "miss") for n in range(40)]
    written(tmp_path, DAY, calls)
    assert facts_of_log(tmp_path, None, None).cache.off_since is None


def test_slow_queues_heavy_reasoning_and_a_busy_gateway_are_found(tmp_path):
    calls = [record(DAY, queue_ms=5000.0, overhead_ms=50.0, reasoning_tokens=18) for _ in range(60)]
    written(tmp_path, DAY, [each._replace(id=str(n)) for n, each in enumerate(calls)])
    costly = told(facts_of_log(tmp_path, None, None))[Weight.COSTLY]
    assert any("waits 5.0 s or longer for a slot" in each for each in costly)
    assert any("the gateway itself takes 50 ms a call" in each for each in costly)
    assert any("90% of what auto writes is reasoning" in each for each in costly)


class _Checked(HTMLParser):
    """Every element that is opened is closed, nothing comes from elsewhere, no script."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}
        if tag not in ("meta", "br", "html", "rect"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in ("html", "rect"):
            assert self.open.pop() == tag


def test_names_that_callers_chose_make_no_markup_in_any_form(tmp_path):
    agent = '<script>alert(1)</script>|"`![x](https://example.com/seen)\r\n| a row | of its own |'
    written(tmp_path, DAY, [record(DAY, agent=agent, session="<img src=x>")])
    facts = facts_of_log(tmp_path, None, None)
    html = page(facts, findings(facts))
    _Checked().feed(html)
    assert "&lt;script&gt;" in html
    text = markdown(facts, findings(facts))
    assert "<script>" not in text
    assert "![x](" not in text
    assert "\r" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(row.replace("\\|", "").count("|") in (3, 4, 8, 12) for row in rows), rows


def test_the_command_writes_each_form(state, tmp_path):
    run = CliRunner()
    base = ["report", "--state", str(state), "--since", "2026-11-01"]
    assert "By tier" in run.invoke(main, base).output
    assert "## Findings" in run.invoke(main, [*base, "--format", "markdown"]).output
    facts = json.loads(run.invoke(main, [*base, "--format", "json"]).output)
    assert facts["all"]["calls"] == 100
    assert facts["findings"][0]["weight"] == 0
    out = tmp_path / "report.html"
    assert run.invoke(main, [*base, "--out", str(out)]).exit_code == 0
    _Checked().feed(out.read_text())
    assert out.read_text().count("<svg") == 4


def test_single_calls_are_found_by_what_they_were_and_by_a_query(state):
    run = CliRunner()
    base = ["calls", "--state", str(state), "--since", "2026-11-01", "--json"]
    failed = [json.loads(line) for line in run.invoke(main, [*base, "--failed"]).output.splitlines()]
    assert [each["outcome"] for each in failed] == ["CapacityError"] * 2
    of_b = run.invoke(main, [*base, "--caller", "b", "--tier", "full", "--last", "3"]).output.splitlines()
    assert len(of_b) == 3
    asked = run.invoke(main, [*base, "--sql", "SELECT tier, count(*) n FROM calls GROUP BY 1 ORDER BY 1"])
    assert json.loads(asked.output.splitlines()[0]) == {"tier": "cache", "n": 60}


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (("--id", "nobody's"), "nobody's: no such call is in the request log"),
        (("--sql", " -- nothing"), "the request log: "),
        (("--sql", "SELECT colour FROM calls"), 'the request log: Binder Error: Referenced column "colour"'),
    ],
)
def test_what_nothing_can_answer_is_said(state, asked, says):
    done = CliRunner().invoke(main, ["calls", "--state", str(state), "--since", "2026-11-01", *asked])
    assert (done.exit_code, says in done.output) == (1, True)


@pytest.mark.parametrize("since", ["yesterday", "7y", "-1d", "d", "2026-13-01"])
def test_a_time_that_is_none_is_a_wrong_command_line(state, since):
    done = CliRunner().invoke(main, ["report", "--state", str(state), "--since", since])
    assert done.exit_code == 2
    assert "7d, 12h, 30m or 2026-11-01" in done.output


def test_no_records_are_a_clear_no(tmp_path):
    done = CliRunner().invoke(main, ["report", "--state", str(tmp_path)])
    assert done.exit_code == 1


# --- LiteLLM ----------------------------------------------------------------------------------------------------------

PAYLOAD = {
    "id": "chatcmpl-1", "call_type": "acompletion", "status": "success", "stream": True, "cache_hit": None,
    "response_cost": 0.002, "prompt_tokens": 1200, "completion_tokens": 400, "startTime": 1763200000.0,
    "endTime": 1763200004.5, "completionStartTime": 1763200001.0, "model": "gpt-4.1-mini", "model_group": "mini",
    "custom_llm_provider": "openai", "api_base": "https://api.openai.com", "trace_id": "s1",
    "hidden_params": {"litellm_overhead_time_ms": 12.5},
    "metadata": {
        "user_api_key_alias": "n8n", "user_agent": "n8n/1.2",
        "usage_object": {"completion_tokens_details": {"reasoning_tokens": 300}},
    },
}  # fmt: skip
SPEND = {
    "request_id": "r2", "call_type": "acompletion", "spend": 0.0, "total_tokens": 100, "prompt_tokens": 80,
    "completion_tokens": 20, "startTime": "2025-11-15T10:00:00.000000", "endTime": "2025-11-15T10:00:00.250000Z",
    "completionStartTime": "2025-11-15T10:00:00.100000", "model": "mini", "cache_hit": "True", "user": "ada",
    "metadata": '{"user_agent": "curl/8"}', "session_id": "s2", "status": "success",
}  # fmt: skip


def test_litellms_payloads_and_spend_logs_become_the_same_facts(tmp_path):
    log = tmp_path / "litellm.jsonl"
    failed = {**PAYLOAD, "id": "x", "status": "failure", "error_information": {"error_class": "RateLimitError"}}
    log.write_text("\n".join(json.dumps(each) for each in (PAYLOAD, SPEND, failed)) + "\n")
    facts = facts_of_litellm(log)
    assert (facts.all.calls, facts.all.ok) == (3, 2)
    assert dict(facts.outcomes) == {"ok": 2, "RateLimitError": 1}
    mini = next(each for each in facts.models if each.name == "mini")
    assert mini.reasoning_share == 600 / 800
    assert facts.cache.hits == 1
    assert facts.cache.cached_tokens == 80
    assert facts.overhead_ms.most == 12.5
    assert facts.latency_ms.least == 250.0
    assert {each.name for each in facts.agents} == {"n8n/1.2", "curl/8"}
    assert {each.name for each in facts.sessions} == {"s1", "s2"}
    whole = tmp_path / "list.json"
    whole.write_text(json.dumps([PAYLOAD, SPEND, failed]))
    assert facts_of_litellm(whole).all == facts.all


@pytest.mark.parametrize(
    ("line", "why"),
    [("{", "Expecting"), ("[]x", "Extra data"), ('{"a": 1}', "startTime"), ('{"startTime": "soon"}', "no time")],
)
def test_what_is_no_record_of_litellms_is_named_with_its_line(tmp_path, line, why):
    log = tmp_path / "litellm.jsonl"
    log.write_text(f"{json.dumps(PAYLOAD)}\n{line}\n")
    with pytest.raises(HostError, match=rf"litellm\.jsonl:2: is no record of LiteLLM's: .*{why}"):
        facts_of_litellm(log)

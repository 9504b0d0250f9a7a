"""The benchmark of the gateway measures what it says: it sees faults, its ideal queue is right, it finds contenders."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.gateway import __main__ as bench
from benchmarks.gateway import contenders
from benchmarks.gateway.callers import CUT, CUT_AS_IF_WHOLE, SILENT, Expected
from benchmarks.gateway.contenders import Contender, Kind
from benchmarks.gateway.failures import FAILURES, errors_of
from benchmarks.gateway.ideal import Call, Ideal
from benchmarks.gateway.jobs import INSTANCES, MODEL, Job, Setup
from benchmarks.gateway.replies import dialect_of
from benchmarks.gateway.rig import Rig, Spoken, rig
from benchmarks.gateway.table import Table
from tests.nodes.simulators import free_port
from tests.waiting import until, wait_until

CALLS = Job((), clients=4, seconds=0.05)


@pytest.fixture
async def stand() -> AsyncIterator[Rig]:
    async with rig(tuple(free_port() for _ in range(INSTANCES))) as stand:
        yield stand


def direct(stand: Rig, **more: str) -> Contender:
    return Contender("direct", stand.ports, **more)


def ideal(setup: Setup, *calls: tuple[float, float, str]) -> Ideal:
    made = Ideal(setup, setup.models[:1] * INSTANCES)
    made.open_loop([Call(index, at_s, work_s, model) for index, (at_s, work_s, model) in enumerate(calls)])
    return made


@pytest.mark.parametrize("dialect", ["ollama", "openai"])
@pytest.mark.parametrize("is_stream", [False, True])
async def test_whole_answers_in_either_dialect_are_counted_and_none_is_an_error(stand, dialect, is_stream):
    job = replace(CALLS, is_stream=is_stream, gap_us=1000 if is_stream else 0)
    result = (await stand.run(direct(stand, dialect=dialect), job)).result
    assert not result.errors
    assert len(result.answers) >= job.clients
    assert result.frames == (len(result.answers) * (job.frames + 1) if is_stream else result.frames)


@pytest.mark.parametrize(
    ("fault", "is_stream", "seen"),
    [("reset", False, CUT), ("500", False, "status 500"), ("hang", False, SILENT), ("break", True, CUT)],
)
async def test_each_fault_of_an_instance_is_seen_by_its_callers(stand, fault, is_stream, seen):
    await stand.fault(0, fault)
    job = replace(CALLS, is_once=True, is_stream=is_stream, gap_us=1000, patience_s=0.5)
    result = (await stand.run(Contender("direct", stand.ports[:1]), job)).result
    assert result.errors == {seen: job.clients}
    await stand.fault(0, "")
    assert not (await stand.run(direct(stand), CALLS)).result.errors


async def test_an_arrival_is_timed_from_its_schedule_and_waits_in_the_instances_own_queue(stand):
    await stand.behave(Setup(slots=1))
    job = replace(CALLS, arrivals_s=(0.0, 0.0), works_us=(100_000,))
    result = (await stand.run(Contender("direct", stand.ports[:1]), job)).result
    assert max(took_s for _, _, took_s in result.answers) > 0.19  # two works, one after the other
    assert (await stand.report())["most_waiting"] == 1


async def test_another_model_is_loaded_before_its_call_is_answered(stand):
    await stand.behave(Setup(models=("a", "b"), load_s=0.05))
    job = replace(CALLS, is_once=True, clients=1, models=("b",))
    assert not (await stand.run(Contender("direct", stand.ports[:1]), job)).result.errors
    report = await stand.report()
    assert (report["loads"], report["resident"][0]) == (1, "b")


async def test_a_contender_is_started_measured_and_gone_at_the_end(stand):
    async with stand.standing({"plain": Kind(contenders.plain)}, Setup(), {0}):
        plain = stand.contenders[1]
        measured = await stand.run(plain, CALLS)
        assert measured.result.answers
        assert sum(measured.cpu_s.values()) > 0
        assert sum(plain.pss_mib().values()) > 1
        table = Table("")
        await errors_of(FAILURES[3])(stand, table, 1, 0.1)
        assert table.values("answers 500 at once: errors", "plain")[0] > 0
    assert plain.root is not None
    assert not Path(f"/proc/{plain.root}").exists()


def test_a_stream_that_ends_without_its_last_frame_is_cut_even_if_its_last_chunk_came():
    job = replace(CALLS, is_stream=True)
    frames = b'{"message":{"content":"0000000000000007 "}}\n'
    assert Expected(job).fault(200, frames, 7) == CUT_AS_IF_WHOLE


def test_an_answer_to_another_call_is_an_error():
    made = dialect_of("/api/chat", MODEL)
    assert made is not None
    body = made.whole(b"%016d" % 7, CALLS.frames).partition(b"\r\n\r\n")[2]
    assert Expected(CALLS).fault(200, body, 7) == ""
    assert Expected(CALLS).fault(200, body, 8) != ""


def test_the_ideal_queue_takes_the_fastest_free_instance_and_then_whoever_comes_free():
    setup = Setup(slots=1, speeds=(2.0, 1.0, 1.0, 1.0, 1.0, 1.0))
    calls = [(0.0, 1.0, MODEL)] * 7
    assert ideal(setup, *calls).took_s == {0: 0.5, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1.0}


def test_the_ideal_queue_loads_a_model_that_is_nowhere_and_none_for_a_short_line():
    setup = Setup(slots=1, models=("a", "b"), load_s=0.4)
    made = ideal(setup, (0.0, 1.0, "b"), (0.1, 0.1, "b"), (0.2, 0.1, "a"))
    assert made.loads == 1
    assert made.took_s == pytest.approx({0: 1.4, 1: 1.4, 2: 0.1})


def test_a_ratio_is_taken_inside_a_round():
    table = Table("A")
    for ours, other in ((10.0, 5.0), (100.0, 20.0), (3.0, 1.0)):
        table.add("cost", "ours", ours)
        table.add("cost", "other", other)
    assert "| cost | 10 | 5 | 3.00 (2.00–5.00) |" in table.draw(["ours", "other"], ["other"])


def test_further_contenders_are_lines_of_a_file_and_a_wrong_line_is_named(tmp_path):
    path = tmp_path / "contenders"
    path.write_text("# a remark\nother 4000 /ollama /opt/other -c 'a file'  # one\n")
    kind = contenders.from_file(path)["other"]
    place = contenders.Place(tmp_path, kind.port, (), Setup())
    assert (kind.port, kind.prefix, kind.command(place)) == (4000, "/ollama", ["/opt/other", "-c", "a file"])
    for wrong in ("other /opt/other", "other 70000 / /opt/other", "other 4000 / 'a file"):
        path.write_text(f"\n{wrong}\n")
        with pytest.raises(SystemExit, match=f"contenders:2: .*{wrong}"):
            contenders.from_file(path)
    for unreadable in (tmp_path, tmp_path / "none"):
        with pytest.raises(SystemExit, match=f"{unreadable} cannot be read"):
            contenders.from_file(unreadable)


@pytest.mark.parametrize(
    "wrong",
    [
        *("--rounds=0", "--rounds=-1", "--rounds=x", "--seconds=0", "--seconds=-1", "--seconds=nan", "--seconds=inf"),
        *("--temperature=-1", "--temperature=nan", "--first-port=0", "--first-port=70000", "--first-port=65535"),
    ],
)
def test_a_number_that_measures_nothing_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        bench.arguments([wrong])
    assert wrong.partition("=")[2] in capsys.readouterr().err


@pytest.mark.parametrize(
    "wrong", ["--only=A,Z", "--only=,", "--contenders=nobody", "--beside=nobody", "--beside=litellm"]
)
async def test_a_name_that_is_none_is_refused_with_those_that_there_are(wrong):
    with pytest.raises(SystemExit, match="there are: "):
        await bench.main(bench.arguments([wrong]))


async def test_a_contender_that_cannot_be_measured_is_named(stand):
    taken = Kind(lambda place: ["true"], port=stand.ports[0])
    absent = Kind(lambda place: ["/no/such/program"])
    for kind, why in ((taken, f"other cannot listen on port {taken.port}"), (absent, "other cannot be started: ")):
        with pytest.raises(contenders.CannotMeasure, match=why):
            async with stand.standing({"other": kind}, Setup(), {0}):
                pytest.fail("it was measured")


async def test_a_rig_that_is_interrupted_as_it_begins_leaves_no_instances():
    def begun() -> list[psutil.Process]:
        return [each for each in psutil.Process().children() if "benchmarks.gateway.instance" in each.cmdline()]

    ports = tuple(free_port() for _ in range(INSTANCES))
    beginning = asyncio.ensure_future(Spoken.started("instance", *map(str, ports), greets=True))
    await until(begun, "it begins")
    beginning.cancel()
    await asyncio.wait([beginning])
    assert beginning.cancelled(), "the instances had greeted before they were interrupted"
    assert not begun()


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_says_nothing_of_itself_and_leaves_nothing(tmp_path, how):
    told, left, run = tmp_path / "told", tmp_path / "left", tmp_path / "contenders"
    left.mkdir()
    run.write_text(f"other {free_port()} / sh -c 'echo $$ > {told}; exec sleep 99'\n")
    blocks = (range(first, first + INSTANCES) for first in range(20_500, 32_000, INSTANCES))
    ports = next(block for block in blocks if not any(map(contenders.is_taken, block)))
    names = ["--only=A", "--contenders=other", f"--file={run}", f"--first-port={ports[0]}"]
    command = [sys.executable, "-m", "benchmarks.gateway", *names]
    with subprocess.Popen(
        command, env={**os.environ, "TMPDIR": str(left)}, start_new_session=True, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as bench_run:  # fmt: skip
        wait_until(lambda: told.exists() and told.read_text().strip(), "the contender has begun")
        os.killpg(bench_run.pid, how)
        _, said = bench_run.communicate(timeout=30)
    assert (bench_run.returncode, said) == (130, "A …\n")
    assert not Path(f"/proc/{int(told.read_text())}").exists()
    assert not list(left.iterdir())


def test_a_turned_table_has_a_line_for_each_contender_that_was_measured():
    table = Table("W")
    table.reserve("requests/s", "p50 ms")
    table.add("p50 ms", "direct", 2.0)
    table.add("requests/s", "ours-1", 100.0)
    assert table.draw_turned(["direct", "ours-1", "nginx-1"]).splitlines()[2:] == [
        "|  | requests/s | p50 ms |",
        "| --- | --- | --- |",
        "| direct | – | 2 |",
        "| ours-1 | 100 | – |",
    ]


async def test_what_several_programs_make_up_ends_as_one_and_is_told_where_one_of_them_ends(tmp_path):
    stays, ends = (
        f"sh -c 'echo $$ > {tmp_path}/pid; exec sleep 600'",
        f"sh -c 'until test -s {tmp_path}/pid; do :; done'",
    )
    together = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.gateway.together", stays, ends, cwd=contenders.ROOT
    )
    assert await together.wait() == 1
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()

"""Events as people read them: whole, in order, bounded, followed across the beginning of a new file."""

from __future__ import annotations

from pathlib import Path

from orchestrator.core.model import Engine, Event, Instance, InstanceId, InstanceState, Moment, NodeName, PoolName
from orchestrator.fleet.chronicle import Chronicle, Reader, older, read
from orchestrator.fleet.moments import Moments
from orchestrator.fleet.progress import Progress


def event(number: int) -> Event:
    return Event(number, Moment.SERVING, f"event {number}", "gpu-1", f"i{number}", 3)


def test_what_was_recorded_is_read_in_its_order(tmp_path: Path) -> None:
    chronicle = Chronicle(tmp_path / "events.jsonl")
    assert read(tmp_path / "events.jsonl") == ()
    for number in range(5):
        chronicle.record(event(number))
    assert read(tmp_path / "events.jsonl") == tuple(map(event, range(5)))
    assert (tmp_path / "events.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_file_stays_small_and_the_lines_before_it_are_kept_once_more(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    chronicle = Chronicle(path, most_bytes=1000)
    for number in range(100):
        chronicle.record(event(number))
    assert path.stat().st_size <= 1000
    assert older(path).stat().st_size <= 1000
    kept = [each.at_unix_ms for each in read(path)]
    assert kept == list(range(kept[0], 100))
    assert len(kept) > len(path.read_bytes().splitlines())


def test_a_reader_gets_each_event_once_also_across_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    chronicle, reader = Chronicle(path, most_bytes=1000), Reader(path)
    seen = list(reader.new())
    for number in range(40):
        chronicle.record(event(number))
        if number % 3 == 0:
            seen += reader.new()
    seen += reader.new()
    assert [each.at_unix_ms for each in seen] == list(range(40))
    assert reader.new() == ()


def test_a_line_that_is_half_there_is_waited_for_and_one_that_makes_no_sense_left_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    chronicle, reader = Chronicle(path), Reader(path)
    chronicle.record(event(1))
    whole = path.read_bytes()
    path.write_bytes(whole + b"no sense\n" + whole[:10])
    assert reader.new() == (event(1),)
    with path.open("ab") as file:
        file.write(whole[10:])
    assert reader.new() == (event(1),)


def test_a_disk_that_takes_nothing_ends_nothing(tmp_path: Path) -> None:
    Chronicle(tmp_path / "missing" / "events.jsonl").record(event(1))


def test_only_what_is_news_of_an_instance_is_told() -> None:
    def be(state: InstanceState, reason: str = "") -> Instance:
        return Instance(
            InstanceId("a"), NodeName("n"), PoolName("p"), "h", 1, Engine.OLLAMA, "p", 2, 1, (), state, reason
        )

    moments = Moments()
    path = [
        (be(InstanceState.STARTING), Moment.STARTED),
        (be(InstanceState.LOADING, "10 %"), None),
        (be(InstanceState.LOADING, "20 %"), None),
        (be(InstanceState.SERVING), Moment.SERVING),
        (be(InstanceState.STARTING, "its process ended"), Moment.RESTARTED),
        (be(InstanceState.DOWN, "no room"), Moment.DOWN),
        (be(InstanceState.STARTING), None),
        (be(InstanceState.DOWN, "no room"), None),
        (be(InstanceState.DOWN, "gpu-2 cannot be reached"), Moment.DOWN),
        (be(InstanceState.SERVING), Moment.SERVING),
        (be(InstanceState.DRAINING), Moment.DRAINED),
    ]
    for now, expected in path:
        told = moments.saw(now)
        assert (told[0] if told else None) is expected, now
    assert moments.gone(InstanceId("a"))[0] is Moment.STOPPED
    assert Moments().saw(be(InstanceState.SERVING), is_adopted=True) is None


def test_a_deployment_is_told_of_when_it_begins_is_late_and_serves_whole_once_each() -> None:
    told: list[Moment] = []
    whole: list[int] = []
    progress = Progress(lambda kind, text: told.append(kind), whole.append)
    progress.take_up(1, is_done=False, until_s=10)
    progress.look(["a is loading"], 5)
    progress.look(["a is loading"], 11)
    progress.look(["a is loading"], 12)
    progress.look([], 13)
    progress.look([], 14)
    progress.take_up(1, is_done=True, until_s=99)
    progress.look(["a is down"], 200)
    assert told == [Moment.DEPLOYMENT_BEGAN, Moment.DEPLOYMENT_FAILED, Moment.DEPLOYMENT_FINISHED]
    assert whole == [1]


def test_a_deployment_that_an_earlier_controller_began_is_finished_by_the_next() -> None:
    told: list[Moment] = []
    progress = Progress(lambda kind, text: told.append(kind), lambda number: None)
    progress.go_on_with(4)
    progress.take_up(4, is_done=False, until_s=10)
    progress.look([], 1)
    assert told == [Moment.DEPLOYMENT_FINISHED]

"""A settings file is followed however it is changed, and no content of it ends the watch."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.core.errors import SettingsError
from orchestrator.settings import ClusterSettings, load
from orchestrator.settings import watch as watch_module
from orchestrator.settings.watch import SettingsWatch
from tests.waiting import until

Seen = ClusterSettings | SettingsError


def text(name: str) -> str:
    return f"models:\n  {name}:\n"


def replace(path: Path, content: str) -> None:
    fresh = path.with_name(path.name + "~")
    fresh.write_text(content)
    fresh.replace(path)


class Follower:
    """What a watch yielded so far, to be waited for."""

    def __init__(self) -> None:
        self._arrived = asyncio.Condition()
        self.seen: list[Seen] = []

    async def take(self, watch: SettingsWatch) -> None:
        async with contextlib.aclosing(watch.changes()) as changes:
            async for each in changes:
                async with self._arrived:
                    self.seen.append(each)
                    self._arrived.notify_all()

    async def model(self, name: str) -> None:
        await self._until(lambda: isinstance(self.seen[-1], ClusterSettings) and name in self.seen[-1].models)

    async def error(self, words: str) -> None:
        await self._until(lambda: isinstance(self.seen[-1], SettingsError) and words in str(self.seen[-1]))

    async def count(self, count: int) -> None:
        await self._until(lambda: len(self.seen) >= count)

    async def _until(self, holds) -> None:
        async with asyncio.timeout(30), self._arrived:
            await self._arrived.wait_for(lambda: bool(self.seen) and holds())


@contextlib.asynccontextmanager
async def following(watch: SettingsWatch) -> AsyncIterator[Follower]:
    follower = Follower()
    task = asyncio.create_task(follower.take(watch))
    try:
        yield follower
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.fixture
def only_events(monkeypatch) -> None:
    """Changes show by the system's events or not at all."""
    monkeypatch.setattr(watch_module, "_READ_ANYWAY_S", 3600.0)


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "conf" / "cluster.yaml"
    path.parent.mkdir()
    path.write_text(text("first"))
    return path


@pytest.mark.usefixtures("only_events")
async def test_a_file_replaced_or_written_in_place_is_yielded(path):
    async with following(SettingsWatch(path, load(path))) as follower:
        replace(path, text("replaced"))
        await follower.model("replaced")
        path.write_text(text("rewritten"))
        await follower.model("rewritten")


@pytest.mark.usefixtures("only_events")
async def test_a_bad_file_and_a_deleted_one_are_errors_and_the_next_good_one_is_live(path):
    async with following(SettingsWatch(path, load(path))) as follower:
        replace(path, "models: [")
        await follower.error("not valid YAML")
        path.write_bytes(b"\xff\xfe\x00")
        await follower.error("not UTF-8")
        path.unlink()
        await follower.error("no such file")
        path.mkdir()
        await follower.error("is a folder")
        path.rmdir()
        path.write_text(text("good"))
        await follower.model("good")


@pytest.mark.usefixtures("only_events")
async def test_who_may_read_a_file_with_a_secret_is_followed_too(path):
    secret = f"{text('b')}keys: [{{name: a, secret: 0123456789abcdef}}]\n"
    async with following(SettingsWatch(path, load(path))) as seen:
        replace(path, secret)
        path.chmod(0o644)
        await seen.error("every user of this machine may read")
        path.chmod(0o600)
        await seen.model("b")


async def test_a_change_between_the_first_reading_and_the_watch_is_not_missed(path):
    current = load(path)
    replace(path, text("meanwhile"))
    async with following(SettingsWatch(path, current)) as follower:
        await follower.model("meanwhile")


async def test_nothing_is_yielded_for_a_file_that_did_not_change_until_it_is_poked(path):
    watch = SettingsWatch(path, load(path))
    async with following(watch) as follower:
        (path.parent / "neighbour.yaml").write_text("x")
        path.touch()
        watch.poke()
        await follower.count(1)
        replace(path, text("second"))
        await follower.model("second")
        assert len(follower.seen) == 2


async def test_a_hangup_signal_has_a_secret_read_again(path, monkeypatch):
    monkeypatch.setenv("ROTATED", "0123456789abcdef")
    path.write_text(text("a") + "keys: [{name: k, secret: 'env:ROTATED'}]")
    watch = SettingsWatch(path, load(path))
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, watch.poke)
    try:
        async with following(watch) as follower:
            monkeypatch.setenv("ROTATED", "fedcba9876543210")
            os.kill(os.getpid(), signal.SIGHUP)
            await follower.count(1)
            assert isinstance(follower.seen[0], ClusterSettings)
            assert follower.seen[0].keys[0].secret.get_secret_value() == "fedcba9876543210"
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@pytest.mark.usefixtures("only_events")
async def test_a_mounted_configuration_changes_by_its_link(tmp_path):
    """As Kubernetes does it: the file is a link through `..data`, which is put in the place of the one before."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cluster.yaml").write_text(text(name))
    (tmp_path / "..data").symlink_to("one")
    path = tmp_path / "cluster.yaml"
    path.symlink_to("..data/cluster.yaml")
    async with following(SettingsWatch(path, load(path))) as follower:
        (tmp_path / "..fresh").symlink_to("two")
        (tmp_path / "..fresh").replace(tmp_path / "..data")
        await follower.model("two")
        replace(tmp_path / "two" / "cluster.yaml", text("three"))
        await follower.model("three")


@pytest.mark.usefixtures("only_events")
async def test_a_folder_that_goes_and_comes_back_is_watched_again(path):
    async with following(SettingsWatch(path, load(path))) as follower:
        shutil.rmtree(path.parent)
        await follower.error("no such file")
        path.parent.mkdir()
        path.write_text(text("again"))
        await follower.model("again")
        replace(path, text("and-again"))
        await follower.model("and-again")


async def test_a_file_that_cannot_be_watched_is_read_all_the_same(path, tmp_path, caplog):
    link = tmp_path / "link.yaml"
    link.symlink_to(link)
    watch = SettingsWatch(link)
    watch.poke()
    async with following(watch) as follower:
        await follower.error("cannot be read")
        fresh = tmp_path / "fresh"
        fresh.symlink_to(path)
        fresh.replace(link)
        await follower.model("first")
    assert "cannot be watched" in caplog.text


async def test_a_watch_that_is_closed_leaves_no_task_and_no_watch_behind(path):
    def watches() -> int:
        return sum("inotify" in str(each.readlink()) for each in Path("/proc/self/fd").iterdir() if each.is_symlink())

    before = watches()
    async with following(SettingsWatch(path, load(path))) as follower:
        replace(path, text("second"))
        await follower.model("second")
    await until(lambda: watches() <= before)  # its thread closes it, a moment later; an earlier test's, too

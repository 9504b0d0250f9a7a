"""What can be asked of `ollamactl nginx`, in a real nginx: TLS, limits, callers' addresses, instances that go."""

from __future__ import annotations

import asyncio
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orchestrator.app.fronting import choose_pool, given_pools, published_pools, site_of
from orchestrator.core.errors import HostError, SettingsError
from orchestrator.core.nginx import Limits, Site, render, without_gateway
from orchestrator.nodes.nginx import BACKUP, UNREAD, Installed, Nginx
from orchestrator.settings import ClusterSettings, parse
from tests.nginx.playing import NAME, SHIPPED, Front, fronted, instance, listens, nginx_program, site
from tests.nodes.simulators import free_port
from tests.waiting import WITHIN_S

CHAT = orjson.dumps({"model": "m", "messages": [{"role": "user", "content": "hello"}]})


def chat(http: aiohttp.ClientSession, front: Front, **more: Any) -> Any:
    return http.post(f"{front.url}/api/chat", data=CHAT, **more)


# --- the text ---------------------------------------------------------------------------------------------------------


def test_the_shipped_file_is_what_is_rendered():
    settings = ClusterSettings.model_validate({"nginx": {"server_name": "ollama.example.com"}})
    assert SHIPPED.read_text() == render(site_of(settings))


@given(
    text=st.one_of(
        st.text(max_size=40),
        st.sampled_from(["a; return 200", "a}\nserver {", "$host", "a b", "/etc/x;", "a'b", 'a"b', "#", "~.*", "*.a"]),
    ),
    where=st.sampled_from(
        ["server_name", "certificate", "access_log", "servers", "listen", "trusted_proxies", "operators"]
    ),
)
def test_no_value_can_bring_a_directive_of_its_own(text, where):
    usual = {"servers": ("127.0.0.1:1",), "server_name": "a", "listen": ("127.0.0.1:1",), "key": "/k"}
    value = text if where in ("server_name", "certificate", "access_log") else (text,)
    try:
        made = Site(**{**usual, "certificate": "/c", where: value})
    except ValueError:
        return
    put = getattr(made, where)
    assert not set(put if isinstance(put, str) else put[0]) & set(" ;{}$#'\"\\\n\t*~")


_ADDRESSES = st.lists(
    st.sampled_from(["127.0.0.1:11434", "[::1]:11435", "127.0.0.1:11436"]), min_size=1, unique=True
).map(tuple)


@settings(max_examples=40)
@given(
    servers=_ADDRESSES,
    limits=st.builds(
        Limits, st.none() | st.integers(1, 10**6), st.integers(0, 10**5), st.none() | st.integers(1, 65_535)
    ),
    proxies=st.sampled_from([(), ("10.0.0.0/8",), ("::1", "192.0.2.0/24")]),
    is_proxied=st.booleans(),
    body_bytes=st.integers(1024, 2**30),
    model=st.none() | st.text(min_size=1, max_size=30),
)
@example(("127.0.0.1:1",), Limits(1, 0, 1), ("10.0.0.0/8",), True, 1024, None)
@example(("127.0.0.1:1",), Limits(), (), False, 1024, "llama3.2:3b-instruct-q4_K_M-of-somebody-with-a-long-name")
def test_nginx_takes_whatever_is_rendered(servers, limits, proxies, is_proxied, body_bytes, model):
    made = Site(
        servers,
        NAME,
        (f"127.0.0.1:{free_port()}",),
        trusted_proxies=proxies,
        is_proxy_protocol=is_proxied and bool(proxies),
        limits=limits,
        body_bytes=body_bytes,
        access_log="/dev/null",
    )
    Nginx(nginx_program()).check(render(made if model is None else without_gateway(made, model, servers)))


@pytest.mark.parametrize("field", ["listen", "redirect_from", "gateways", "trusted_proxies", "operators"])
def test_an_entry_nginx_could_misread_is_refused_in_its_place(field):
    with pytest.raises(SettingsError, match=rf"^c:3:{len(field) + 6}: nginx\.{field}\[0\]: .*expected"):
        parse(f"models: {{a: }}\nnginx:\n  {field}: ['a; return 200']\n", "c")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("certificate: /c.pem", "needs `certificate_key`"),
        ("certificate_key: /c.key", "needs `certificate`"),
        ("redirect_from: ['h:80']", "no TLS"),
        ("proxy_protocol: true", "trusted_proxies"),
        ("limits: {burst: 3}", "a_minute"),
    ],
)
def test_what_nginx_needs_together_is_asked_for_together(wrong, why):
    with pytest.raises(SettingsError, match=why):
        parse(f"models: {{a: }}\nnginx: {{{wrong}}}\n", "c")


def test_http2_is_asked_for_as_this_nginx_reads_it():
    made = Site(("127.0.0.1:1",), NAME, ("127.0.0.1:443",), certificate="/c", key="/k", version=(1, 22, 1))
    assert "listen 127.0.0.1:443 ssl http2;" in render(made)
    newer = render(replace(made, version=(1, 25, 1)))
    assert "listen 127.0.0.1:443 ssl;" in newer
    assert "http2 on;" in newer


def test_nginxs_reason_is_one_line():
    with pytest.raises(HostError, match=r"refuses it: .*unknown directive") as why:
        Nginx(nginx_program()).check("nonsense on;\n")
    assert "\n" not in str(why.value)


def test_a_pool_is_named_where_there_are_several_and_is_never_empty():
    status = {
        "pools": [
            {"name": "a", "instances": [{"host": "::1", "port": 1, "state": "serving"}]},
            {"name": "b", "instances": [{"host": "h", "port": 2, "state": "draining"}]},
        ]
    }
    pools = published_pools(status)
    assert choose_pool(pools, "a") == ("a", ["[::1]:1"])
    for model, why in ((None, "--model"), ("b", "no instance"), ("c", "there is no model")):
        with pytest.raises(HostError, match=why):
            choose_pool(pools, model)
    ours = [{"url": "http://h:1", "model": "a"}, {"url": "http://h:2"}]
    assert given_pools(ClusterSettings.model_validate({"instances": ours})) == {"a": ["h:1", "h:2"]}


# --- traffic ----------------------------------------------------------------------------------------------------------


async def test_frames_come_one_by_one_over_tls_and_http2(tmp_path):
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    async with instance() as behind:
        more = {"certificate": str(certificate), "key": str(key)}
        with fronted(tmp_path / "nginx", [f"127.0.0.1:{behind.port}"], **more) as front:
            await listens(front)
            command = ["curl", "-sSN", "--http2", "--cacert", str(certificate), "-w", "version=%{http_version}"]
            command += ["--resolve", f"{NAME}:{front.port}:127.0.0.1", "-d", CHAT.decode()]
            curl = await asyncio.create_subprocess_exec(
                *command, f"https://{NAME}:{front.port}/api/chat", stdout=asyncio.subprocess.PIPE
            )
            assert curl.stdout is not None
            async with asyncio.timeout(WITHIN_S):
                behind.say("one ")
                assert b'"one "' in await curl.stdout.readline()
                behind.say("", is_last=True)
                assert b'"done":true' in await curl.stdout.readline()
                assert await curl.stdout.read() == b"version=2"
                await curl.wait()


async def test_an_address_that_asks_too_often_is_told_so_as_json_and_others_are_served(tmp_path):
    proxied = {"limits": Limits(a_minute=1, burst=0), "trusted_proxies": ("127.0.0.1",)}
    async with instance() as behind, aiohttp.ClientSession(headers={"Host": NAME}) as http:
        with fronted(tmp_path / "nginx", [f"127.0.0.1:{behind.port}"], **proxied) as front:
            await listens(front)
            for address, status in (("192.0.2.1", 200), ("192.0.2.1", 429), ("192.0.2.2", 200)):
                behind.say("hi", is_last=True)
                async with chat(http, front, headers={"X-Forwarded-For": address}) as reply:
                    assert reply.status == status
                    assert reply.headers["X-Request-Id"]
                    if status == 429:
                        assert "too many" in (await reply.json())["error"]
                        assert reply.headers["Retry-After"]
                    await reply.read()


async def test_a_caller_that_is_no_trusted_proxy_cannot_choose_its_address(tmp_path):
    limits = {"limits": Limits(a_minute=1, burst=0)}
    async with instance() as behind, aiohttp.ClientSession(headers={"Host": NAME}) as http:
        with fronted(tmp_path / "nginx", [f"127.0.0.1:{behind.port}"], **limits) as front:
            await listens(front)
            behind.say("hi", is_last=True)
            for address, status in (("192.0.2.1", 200), ("192.0.2.2", 429)):
                async with chat(http, front, headers={"X-Forwarded-For": address}) as reply:
                    assert reply.status == status
                    await reply.read()


async def test_an_address_has_only_so_many_calls_under_way(tmp_path):
    async with instance() as behind, aiohttp.ClientSession(headers={"Host": NAME}) as http:
        with fronted(tmp_path / "nginx", [f"127.0.0.1:{behind.port}"], limits=Limits(at_once=1)) as front:
            await listens(front)
            behind.say("one ")
            async with chat(http, front) as first:
                async with chat(http, front) as second:
                    assert second.status == 429
                behind.say("", is_last=True)
                assert b'"done":true' in await first.read()


async def test_without_a_gateway_only_the_operator_changes_instances(tmp_path):
    async with instance() as behind, aiohttp.ClientSession(headers={"Host": NAME}) as http:
        direct = {"is_direct": True, "operators": ("192.0.2.1",)}
        with fronted(tmp_path / "nginx", [f"127.0.0.1:{behind.port}"], **direct) as front:
            await listens(front)
            for path in ("/api/delete", "//api/delete", "/api/%64elete", "/api/pull", "/v1/../api/pull", "/slots"):
                async with http.post(f"{front.url}{path}", data=b"{}") as reply:
                    assert reply.status == 403, path
                    assert "operators" in (await reply.json())["error"]
            behind.say("hi", is_last=True)
            async with chat(http, front) as reply:
                assert reply.status == 200
                await reply.read()


async def test_instances_come_and_go_without_a_failed_call_and_a_stream_goes_on(tmp_path):
    async with instance() as one, instance() as two, aiohttp.ClientSession(headers={"Host": NAME}) as http:
        with fronted(tmp_path / "nginx", [f"127.0.0.1:{one.port}"], is_direct=True) as front:
            await listens(front)
            one.say("one ")
            async with chat(http, front) as long_one:
                await long_one.content.readline()
                after = render(site(front.folder, front.port, [f"127.0.0.1:{two.port}"], is_direct=True))
                became = await asyncio.to_thread(_installed_nginx(front).install, after, _file(front))
                assert became is Installed.RELOADED
                async with asyncio.timeout(WITHIN_S):
                    while f'"server":"127.0.0.1:{two.port}"' not in front.access_log:
                        # The played instance has no such path: its 404 is an answer, nginx' 502 would be a failed call.
                        async with http.post(f"{front.url}/api/generate", headers={"Connection": "close"}) as reply:
                            assert reply.status == 404
                one.say("", is_last=True)
                assert b'"done":true' in await long_one.content.read()


# --- the file ---------------------------------------------------------------------------------------------------------


async def test_a_second_installation_changes_nothing_and_the_first_keeps_what_was_there(tmp_path):
    with fronted(tmp_path / "nginx", ["127.0.0.1:9"]) as front:
        await listens(front)
        before, nginx = _file(front).read_text(), _installed_nginx(front)
        after = render(site(front.folder, front.port, ["127.0.0.1:10"]))
        assert nginx.install(after, _file(front)) is Installed.RELOADED
        assert nginx.install(after, _file(front)) is Installed.UNCHANGED
        assert _file(front).with_name(_file(front).name + BACKUP).read_text() == before
        assert not _file(front).with_name(_file(front).name + UNREAD).exists()


async def test_a_file_that_was_left_unread_and_that_nginx_refuses_gives_way_to_the_one_before(tmp_path):
    with fronted(tmp_path / "nginx", ["127.0.0.1:9"]) as front:
        await listens(front)
        file, nginx = _file(front), _installed_nginx(front)
        before = file.read_text()
        # As a SIGKILL leaves it before nginx was asked.
        file.with_name(file.name + BACKUP).write_text(before)
        file.with_name(file.name + UNREAD).write_text("before\n")
        file.write_text(before + "nonsense on;\n")
        with pytest.raises(HostError, match="put back"):
            nginx.install(before + "nonsense on;\n", file)
        assert file.read_text() == before
        assert nginx.install(before, file) is Installed.UNCHANGED


async def test_what_nginx_refuses_is_taken_back_and_strangers_files_are_left(tmp_path):
    with fronted(tmp_path / "nginx", ["127.0.0.1:9"]) as front:
        await listens(front)
        before, nginx = _file(front).read_text(), _installed_nginx(front)
        with pytest.raises(HostError, match="put back"):
            nginx.install(before + "nonsense on;\n", _file(front))
        assert _file(front).read_text() == before
        with pytest.raises(HostError, match="includes no"):
            nginx.install(before, front.folder / "elsewhere.conf")
        assert not (front.folder / "elsewhere.conf").exists()
        (front.folder / "ollama-cluster.conf").write_text("# by hand\n")
        with pytest.raises(HostError, match="--force"):
            nginx.install(before, _file(front))
        assert nginx.install(before, _file(front), is_forced=True) is Installed.RELOADED


# --- helpers ----------------------------------------------------------------------------------------------------------


def _file(front: Front) -> Path:
    return front.folder / "ollama-cluster.conf"


def _installed_nginx(front: Front) -> Nginx:
    return Nginx(nginx_program(), front.folder / "nginx.conf")

"""A network of its own for a cluster, in which the whole world is this machine, and a watch on who calls the world.

In a fresh network namespace every address is routed to the loopback device: whatever a process sends anywhere arrives
there, is refused at once, and is seen with the address it was meant for. Run as a program within such a namespace,
`python walled.py FOLDER KIND`, this module starts a cluster, asks it all kinds of questions that hold a secret word,
breaks parts of it meanwhile, and writes down in FOLDER/told.json who called the world, and where the word was found.
"""

from __future__ import annotations

import ctypes
import http.client
import ipaddress
import json
import os
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from running import TIMEOUT_S, Up, environment, is_back, running, unit_pid, until

SECRET = "zq7Geheimnis4vX9"
# An answer that is kept may hold what it was asked; one so short cannot hold the word.
TOKENS = 6
# Addresses that belong to nobody (RFC 5737, RFC 3849).
NOBODY, NOBODY_6, NAME_SERVER = "203.0.113.9", "2001:db8::9", "198.51.100.53"

SIMULATED = """
models:
  llama3.2:3b: {slots: 2}
  llama3.1:8b: {slots: 2, replicas: 1}
  nomic-embed-text: {embedding: true}
tiers:
  small: {model: "llama3.2:3b", backup: full}
  full: {model: "llama3.1:8b", backup: small}
routes:
  auto: {cache: all}
cache: {models: all}
"""

# What is asked in each kind of cluster: chat models and routes, and models that embed.
MODELS = {
    "simulated": (("auto", "llama3.1:8b", "llama3.2:3b"), ("nomic-embed-text",)),
    "built-in": (("auto", "smollm2:135m"), ()),
}

_SETUP = (
    "ip link set lo up",
    "ip route add local default dev lo",
    "ip -6 route add local default dev lo",
    f"mount --bind {{folder}}/resolv.conf {os.path.realpath('/etc/resolv.conf')}",
)


# --- from outside ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """What was seen within: `control` before the cluster was started, the rest from then on."""

    control: list[str]
    outward: list[str] = field(default_factory=list)
    answers: dict[str, list[int]] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)
    found: list[str] = field(default_factory=list)


def walled(folder: Path, kind: str) -> Told:
    """Run this module within a network of its own. Skips, saying why, where this machine does not allow one."""
    env = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin:/sbin"}
    for each in ("unshare", "ip", "mount"):
        if shutil.which(each, path=env["PATH"]) is None:
            pytest.skip(f"{each} is not installed; tests/system_packages.sh has it")
    (folder / "resolv.conf").write_text(f"nameserver {NAME_SERVER}\noptions timeout:1 attempts:1\n")
    setup = " && ".join(_SETUP).format(folder=folder)
    wall = ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-ec"]
    allowed = subprocess.run([*wall, setup], env=env, capture_output=True, text=True, check=False)
    if allowed.returncode != 0:
        pytest.skip(f"no network of one's own is allowed here: {allowed.stderr.strip()}")
    argv = [*wall, setup + ' && exec "$@"', "sh", sys.executable, __file__, str(folder), kind]
    with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said, _ = process.communicate()
        finally:
            process.terminate()  # it ends its cluster; it has ended already where nothing went wrong
    assert process.returncode == 0, said
    return Told(**json.loads((folder / "told.json").read_text()))


# --- within: the watch -----------------------------------------------------------------------------------------------

_SO_ATTACH_FILTER = 26
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_LOAD, _AND, _EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
# Programs of the kernel's packet filter: taken is what is not meant for 127.0.0.0/8, and not for ::1.
_NOT_LOOPBACK = [(_LOAD, 0, 0, 16), (_AND, 0, 0, 0xFF000000), (_EQUAL, 0, 1, 0x7F000000), (_RETURN, 0, 0, 0)]
_NOT_LOOPBACK_6 = [
    *((_LOAD, 0, 0, 24), (_EQUAL, 0, 7, 0), (_LOAD, 0, 0, 28), (_EQUAL, 0, 5, 0)),
    *((_LOAD, 0, 0, 32), (_EQUAL, 0, 3, 0), (_LOAD, 0, 0, 36), (_EQUAL, 0, 1, 1), (_RETURN, 0, 0, 0)),
]


class Watch:
    """Everything that is sent to an address outside this machine, by whomever in this network."""

    def __init__(self) -> None:
        self._sockets = [_packets(_ETH_P_IP, _NOT_LOOPBACK), _packets(_ETH_P_IPV6, _NOT_LOOPBACK_6)]

    def seen(self) -> list[str]:
        """What was sent since the last look."""
        found: list[str] = []
        while ready := select.select(self._sockets, [], [], 0)[0]:
            found += [_destination(each.recv(65536)) for each in ready]
        return found


def _packets(protocol: int, keeps: list[tuple[int, int, int, int]]) -> socket.socket:
    """Packets that come in on the loopback device and that the filter keeps, from their network header on."""
    # No protocol until the filter is there: what had come before would not have been filtered.
    taken = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    program = b"".join(struct.pack("HBBI", *each) for each in [*keeps, (_RETURN, 0, 0, 0xFFFF)])
    code = ctypes.create_string_buffer(program)
    taken.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HL", len(program) // 8, ctypes.addressof(code)))
    taken.bind(("lo", protocol))
    return taken


def _destination(packet: bytes) -> str:
    """`tcp 203.0.113.9 port 443`, as far as the packet tells."""
    if packet[0] >> 4 == 4:
        protocol, address, rest = packet[9], packet[16:20], packet[4 * (packet[0] & 15) :]
    else:
        protocol, address, rest = packet[6], packet[24:40], packet[40:]
    name = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}.get(protocol, f"protocol {protocol}")
    port = f" port {int.from_bytes(rest[2:4])}" if name in ("tcp", "udp") else ""
    return f"{name} {ipaddress.ip_address(address)}{port}"


def _call_the_world() -> None:
    """What the watch must see, from a process that ends at once: a name asked for, calls over IPv4 and IPv6."""
    code = (
        "import socket, contextlib\n"
        "with contextlib.suppress(OSError): socket.getaddrinfo('ollama.com', 443)\n"
        f"for family, address in ((socket.AF_INET, {NOBODY!r}), (socket.AF_INET6, {NOBODY_6!r})):\n"
        "    with contextlib.suppress(OSError), socket.socket(family) as one: one.connect((address, 443))\n"
        f"with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one: one.sendto(b'x', ({NOBODY!r}, 514))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=TIMEOUT_S)


# --- within: the questions -------------------------------------------------------------------------------------------


def _bodies() -> Iterator[tuple[str, dict[str, Any]]]:
    """A path and a call for each way to ask a model, none like another."""
    text = f"Patient {SECRET} has which illness? Variant {{}}."
    turns = [{"role": "system", "content": f"You know {SECRET}."}, {"role": "user", "content": text}]
    limit = {"options": {"num_predict": TOKENS}}
    schema = {"type": "object", "properties": {"illness": {"type": "string"}}, "required": ["illness"]}
    tool = {"type": "function", "function": {"name": "find", "parameters": {"type": "object", "properties": {}}}}
    yield "/api/chat", {"messages": turns, **limit}
    yield "/api/chat", {"messages": turns, "format": schema, **limit}
    yield "/api/chat", {"messages": turns, "tools": [tool], **limit}
    yield "/api/generate", {"prompt": text, "system": SECRET, **limit}
    yield "/v1/chat/completions", {"messages": turns, "max_tokens": TOKENS, "user": SECRET}
    yield "/v1/completions", {"prompt": text, "max_tokens": TOKENS}
    yield "/v1/responses", {"input": text, "max_output_tokens": TOKENS}
    yield "/v1/messages", {"messages": turns[1:], "max_tokens": TOKENS}
    hard = f"Prove step by step, write code in three languages and compare. {text}"
    yield "/api/chat", {"messages": [{"role": "user", "content": hard}], **limit}


def _embeddings() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "/api/embed", {"input": [SECRET, f"about {SECRET}"]}
    yield "/api/embeddings", {"prompt": SECRET}
    yield "/v1/embeddings", {"input": SECRET}


class Asking:
    """Questions to a cluster; the status of each answer is kept by path."""

    def __init__(self, up: Up) -> None:
        self._up = up
        self.answers: dict[str, list[int]] = {}

    @property
    def answered(self) -> int:
        return sum(statuses.count(200) for statuses in tuple(self.answers.values()))

    def everything(self, chats: tuple[str, ...], embeds: tuple[str, ...]) -> None:
        """Each way to ask, streamed and not, a second time from the cache, and past the cache."""
        for model in chats:
            for number, (path, body) in enumerate(_bodies()):
                for is_stream in (False, True):
                    whole = json.loads(json.dumps(body).replace("Variant {}", f"Variant {number}"))
                    for headers in ({}, {}, {"Cache-Control": "no-store"}):
                        self.ask(path, {**whole, "model": model, "stream": is_stream}, headers)
        for model in embeds:
            for path, body in _embeddings():
                self.ask(path, {**body, "model": model})

    def ask(self, path: str, body: dict[str, Any] | bytes, headers: Mapping[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        head = {"Content-Type": "application/json", "User-Agent": "test", **(headers or {})}
        with suppress(httpx.TransportError):  # the worker that had it was killed; the next call is answered
            reply = httpx.post(self._up.endpoint + path, content=content, headers=head, timeout=TIMEOUT_S)
            self.answers.setdefault(path, []).append(reply.status_code)

    def what_is_refused(self) -> None:
        """Errors are where questions slip into logs."""
        turns = [{"role": "user", "content": SECRET}]
        self.ask("/api/chat", {"model": "auto", "messages": SECRET})
        self.ask("/api/chat", {"model": "auto", "messages": turns, "options": {"num_ctx": SECRET}})
        self.ask("/api/chat", f'{{"model": "auto", "messages": [{{"content": "{SECRET}'.encode())
        self.ask("/v1/chat/completions", {"model": "auto", "messages": [{"role": SECRET}]})
        self.ask("/api/generate", {"model": "auto", "prompt": SECRET, "images": [SECRET]})
        for model in ("gpt-oss:120b-cloud", "kimi-k2:1t-cloud"):
            self.answers.setdefault("cloud", []).append(
                self._up.post("/api/chat", {"model": model, "messages": turns}).status_code
            )

    def leave_half_way(self, model: str) -> None:
        """A caller that reads the first piece and goes. Not kept: a long answer of a small model may hold the word."""
        host, _, port = self._up.listen.partition(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
        turns = [{"role": "user", "content": f"Tell me all of {SECRET}, at length."}]
        body = json.dumps({"model": model, "messages": turns})
        connection.request("POST", "/api/chat", body, {"Cache-Control": "no-store"})
        with connection.getresponse() as reply:
            reply.read(1)
        connection.close()


# --- within: what goes wrong meanwhile -------------------------------------------------------------------------------


def _break(up: Up, asking: Asking, chats: tuple[str, ...]) -> None:
    """Kill an instance, Redis and a worker under load, one after another: backups, retries and logs of failures."""
    engine = "engine-" + next(each["id"] for each in up.instances() if each["pool"] == chats[-1])
    stop = threading.Event()

    def load() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            turns = [{"role": "user", "content": f"Question {number} on {SECRET}."}]
            model = chats[number % len(chats)]
            body = {"model": model, "messages": turns, "options": {"num_predict": TOKENS}}
            asking.ask("/api/chat", {**body, "stream": bool(number % 2)})

    threads = [threading.Thread(target=load) for _ in range(3)]
    for each in threads:
        each.start()
    try:
        for unit in (engine, "redis", "gateway-0"):
            killed = until(lambda name=unit: unit_pid(up.state, name), f"{unit} runs")
            os.kill(killed, signal.SIGKILL)
            until(lambda name=unit, pid=killed: is_back(up.state, name, pid), f"{unit} is back")
            enough = asking.answered + 2 * len(threads)
            until(lambda wanted=enough: asking.answered >= wanted, f"calls are answered after {unit} was killed")
    finally:
        stop.set()
        for each in threads:
            each.join()
    until(up.all_serve, "all serve again")


# --- within: where the word is ---------------------------------------------------------------------------------------


def _search(folder: Path) -> tuple[list[str], list[str]]:
    """The files that were read, and those that hold the secret."""
    files: list[str] = []
    found: list[str] = []
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):
            if path.is_file() and not path.is_symlink():
                name = str(path.relative_to(folder))
                files.append(name)
                if SECRET.lower().encode() in path.read_bytes().lower():
                    found.append(name)
    return files, found


def _pages(up: Up) -> dict[str, str]:
    paths = ("/metrics", "/status.json", "/", "/api/tags", "/api/ps", "/v1/models", "/readyz")
    return {path: httpx.get(up.endpoint + path, timeout=TIMEOUT_S).text for path in paths}


@contextmanager
def _cluster(folder: Path, kind: str) -> Iterator[Up]:
    home, temporary = folder / "home", folder / "tmp"
    for each in (home, temporary):
        each.mkdir()
    env = {**environment(), "HOME": str(home), "TMPDIR": str(temporary)}
    env = {name: value for name, value in env.items() if not name.startswith("XDG_") and "proxy" not in name.lower()}
    if kind == "simulated":
        config = folder / "cluster.yaml"
        config.write_text(SIMULATED)
        with running(folder / "state", "--simulate", "2x RTX 4090", config=config, env=env) as up:
            yield up
    else:
        with running(folder / "state", env=env) as up:
            yield up


def main() -> None:
    """Within the wall."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the cluster is ended on the way out
    watch = Watch()
    _call_the_world()
    told = Told(control=watch.seen())
    with _cluster(folder, kind) as up:
        chats, embeds = MODELS[kind]
        asking = Asking(up)
        asking.everything(chats, embeds)
        asking.what_is_refused()
        for model in chats:
            asking.leave_half_way(model)
        _break(up, asking, chats)
        told.answers.update(asking.answers)
        for path, text in _pages(up).items():
            told.pages.append(path)
            told.found.extend([path] if SECRET.lower() in text.lower() else [])
        running_files, running_found = _search(folder)
    files, found = _search(folder)
    told.files.extend(sorted({*running_files, *files}))
    told.found.extend(sorted({*running_found, *found}))
    told.outward.extend(watch.seen())
    (folder / "told.json").write_text(json.dumps(asdict(told)))


if __name__ == "__main__":
    main()

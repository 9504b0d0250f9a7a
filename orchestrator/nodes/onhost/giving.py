"""Gives models of this host to others of the cluster: read-only, over HTTP, to whoever has the token of a transfer.

What may be read by which token comes on the standard input and is withdrawn there; the paths are those of one model's
blobs and no others. The port is one that the kernel chose, on the node's own address. All readers together get the
bytes a second that were allowed. It ends with its input.
"""

from __future__ import annotations

import hmac
import os
import pwd
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from orchestrator.nodes.onhost import leash
from orchestrator.nodes.onhost.blobs import (
    LARGEST_MANIFEST_BYTES,
    Trouble,
    become,
    blob_path,
    blobs_of,
    digest_of,
    manifest_path,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE_BYTES = 2**20
_MOST_READERS = 64
_NEAR = "127.0.0.1"
_RANGE = re.compile(r"bytes=(\d{1,15})-")


class Pace:
    """So many bytes a second, all who ask together; None: as fast as it goes."""

    def __init__(
        self,
        bytes_s: float | None,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._bytes_s, self._now, self._sleep = bytes_s, now, sleep
        self._next_s = now()
        self._lock = threading.Lock()

    @property
    def piece_bytes(self) -> int:
        """What is given in one go: several a second, or a low limit would go in bursts."""
        return _PIECE_BYTES if self._bytes_s is None else max(1, min(_PIECE_BYTES, int(self._bytes_s / 8)))

    def wait(self, count: int) -> None:
        """Until so many bytes may be given."""
        if self._bytes_s is None:
            return
        with self._lock:
            begins_s = max(self._next_s, self._now())
            self._next_s = begins_s + count / self._bytes_s
        self._sleep(max(0.0, begins_s - self._now()))


class Offers:
    """Which token opens which blobs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def add(self, token: str, parts: list[str], digest: str) -> dict[str, Any]:
        """Open a model's blobs to a token; the model's manifest. Raises Trouble where it is not there as it should."""
        path = manifest_path(self._folder, parts)
        try:
            with path.open("rb") as file:
                content = file.read(LARGEST_MANIFEST_BYTES)
        except OSError as error:
            raise Trouble("source", f"{path}: {error.strerror}") from error
        if digest_of(content) != digest:
            raise Trouble("source", f"{path} is another version than it was when it was looked at")
        blobs = blobs_of(content)
        for name, size in blobs.items():
            self._check(name, size)
        with self._lock:
            self._open[token] = blobs
        return {"manifest": content.decode(), "blobs": blobs}

    def withdraw(self, token: str) -> None:
        with self._lock:
            self._open.pop(token, None)

    def found(self, authorization: str, path: str) -> Path | None:
        """The file that this token may read under this path."""
        with self._lock:
            known = list(self._open.items())
        name = path.lstrip("/")
        given = authorization.encode("utf-8", "replace")
        opened = [blobs for token, blobs in known if hmac.compare_digest(given, b"Bearer " + token.encode())]
        return blob_path(self._folder, name) if any(name in blobs for blobs in opened) else None

    def _check(self, name: str, size: int) -> None:
        path = blob_path(self._folder, name)
        try:
            there = path.stat().st_size
        except OSError as error:
            raise Trouble("source", f"{path}: {error.strerror}") from error
        if there != size:
            raise Trouble("source", f"{path} has {there:,} of {size:,} bytes")


class Giver(ThreadingMixIn, HTTPServer):
    """The listening socket; what is sent over it is the handler's."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, family: int, address: Any, offers: Offers, pace: Pace, silence_s: float) -> None:
        self.address_family = family
        self.offers, self.pace, self.silence_s = offers, pace, silence_s
        self._room = threading.Semaphore(_MOST_READERS)
        super().__init__(address, _Reader)

    def server_bind(self) -> None:
        # Not `HTTPServer`'s, which asks for this host's name, maybe at a server of names that does not answer.
        socket.socket.bind(self.socket, self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._room.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A reader that left, or was silent: it asks again or does without."""


class _Reader(BaseHTTPRequestHandler):
    server_version = "ollamactl"
    sys_version = ""

    def setup(self) -> None:
        self.request.settimeout(cast(Giver, self.server).silence_s)
        super().setup()

    def do_GET(self) -> None:
        giver = cast(Giver, self.server)
        path = giver.offers.found(self.headers.get("Authorization", ""), self.path)
        if path is None:
            self._refuse(403)
            return
        with path.open("rb") as file:
            self._give(file, giver.pace)

    def _give(self, file: BinaryIO, pace: Pace) -> None:
        size = os.fstat(file.fileno()).st_size
        asked = _RANGE.fullmatch(self.headers.get("Range", "bytes=0-"))
        start = int(asked.group(1)) if asked else 0
        if start > size:
            self._refuse(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(size - start))
        self.end_headers()
        while start < size:
            count = min(pace.piece_bytes, size - start)
            pace.wait(count)
            if not self.connection.sendfile(file, start, count):
                return  # the file became shorter: the reader finds too little
            start += count

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *told: Any) -> None:
        """Nothing: what is worth telling, the reader tells."""


def main(bundle: dict[str, Any]) -> None:
    """As it is started over SSH: `bundle` is what was sent."""
    folder = Path(bundle["models_dir"])
    try:
        giver, offers = _open(bundle, folder)
    except Trouble as trouble:
        leash.end(1, {"error": str(trouble), "fault": trouble.fault})
        return
    threading.Thread(target=giver.serve_forever, daemon=True).start()
    host, port = giver.server_address[:2]
    leash.say({"host": host, "port": port, "is_reachable": host != _NEAR})
    for request in leash.heard(bundle["silence_s"]):
        leash.say(_answer(offers, request))
    leash.end()


def _open(bundle: dict[str, Any], folder: Path) -> tuple[Giver, Offers]:
    """The server, listening, with no more rights than to read the models. Raises Trouble."""
    try:
        become(pwd.getpwuid((folder / "manifests").stat().st_uid).pw_name)
    except KeyError as error:
        raise Trouble("source", f"{folder} belongs to a user that does not exist") from error
    except OSError as error:
        raise Trouble("source", f"{error.filename}: {error.strerror}") from error
    offers, pace = Offers(folder), Pace(bundle["bytes_s"])
    try:
        family, _, _, _, address = socket.getaddrinfo(bundle["address"], 0, type=socket.SOCK_STREAM)[0]
        return Giver(family, address, offers, pace, bundle["silence_s"]), offers
    except OSError:
        # Known elsewhere by an address that is not its own, or that it cannot look up: it is reached over SSH then.
        return Giver(socket.AF_INET, (_NEAR, 0), offers, pace, bundle["silence_s"]), offers


def _answer(offers: Offers, request: dict[str, Any]) -> dict[str, Any]:
    """What to say to a request, under the name by which it is waited for."""
    if "withdraw" in request:
        offers.withdraw(request["withdraw"])
        return {"answer": "-" + request["withdraw"]}
    token = request["offer"]
    try:
        return {"answer": token, **offers.add(token, request["parts"], request["digest"])}
    except Trouble as trouble:
        return {"answer": token, "error": str(trouble), "fault": trouble.fault}

"""Connections to one provider outside: TLS that is always verified, kept for a while, and its answers' headers.

What goes over them is `outside`'s. No proxy is used: none is named in the settings, and the environment is not asked.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import Final

from orchestrator import __version__
from orchestrator.core.address import address_text, bracketed
from orchestrator.core.errors import InstanceError
from orchestrator.core.target import Provider
from orchestrator.gateway.upstream import Connections, Exchange, Silences

# Another continent and a TLS handshake; a rack's network takes a thousandth of it.
CONNECT_TIMEOUT_S: Final = 10.0
# Load balancers close what is idle for a minute, some without a word.
IDLE_S: Final = 30.0
# Longer ones are of no use to us, and everything a far side sends is held.
_HEADER_BYTES: Final = 256
_HEADERS: Final = 64


class OutsideExchange(Exchange):
    """One connection to a provider; remembers the last answer's headers."""

    __slots__ = ("headers",)

    def __init__(self, provider: str, silences: Silences) -> None:
        super().__init__(provider, silences)
        self.headers: dict[str, str] = {}

    def send(self, head: bytes, body: bytes, silence_s: float) -> None:
        self.headers = {}
        super().send(head, body, silence_s)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(value) <= _HEADER_BYTES and len(self.headers) < _HEADERS:
            self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")


class OutsideConnections(Connections):
    """Connections to one provider's endpoint. Raises InstanceError where its certificates cannot be read."""

    def __init__(self, provider: Provider) -> None:
        super().__init__()
        self._tls = tls_of(provider)
        self._is_closed = False

    def idle(self, host: str, port: int) -> Exchange | None:
        """A kept connection that was used a short while ago."""
        now_s = asyncio.get_running_loop().time()
        while (exchange := super().idle(host, port)) is not None:
            if now_s - exchange.last_read_s <= IDLE_S:
                return exchange
            exchange.close()
        return None

    async def connect(self, instance: str, host: str, port: int) -> Exchange:
        """A new connection. Raises InstanceError, with the reason in words, where there is none to be had."""
        loop = asyncio.get_running_loop()
        name = host if self._tls is not None else None
        where = address_text(host, port)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                _, exchange = await loop.create_connection(
                    lambda: OutsideExchange(instance, self._silences), host, port, ssl=self._tls, server_hostname=name
                )
        except TimeoutError as why:
            text = f"no connection to {where} within {CONNECT_TIMEOUT_S:g} s"
            raise InstanceError(instance, text, is_unreachable=True) from why
        except ssl.SSLCertVerificationError as why:
            text = f"the certificate of {where} is not to be trusted: {why.verify_message.rstrip('.')}"
            raise InstanceError(instance, f"{text}; `ca` names a file of those that are", is_unreachable=True) from why
        except OSError as why:
            raise InstanceError(instance, f"no connection to {where}: {why}", is_unreachable=True) from why
        return exchange

    def give_back(self, host: str, port: int, exchange: Exchange) -> None:
        """Keep a connection, unless the settings have changed the provider meanwhile."""
        if self._is_closed:
            exchange.close()
        else:
            super().give_back(host, port, exchange)

    def close(self) -> None:
        """Close those that are idle; what is under way goes on, and ends with its answer."""
        self._is_closed = True
        super().close()


def tls_of(provider: Provider) -> ssl.SSLContext | None:
    """What its certificate is checked by, the system's trust or a file; None where it is asked in clear.

    Raises InstanceError where the file cannot be read.
    """
    if not provider.is_tls:
        return None
    try:
        context = ssl.create_default_context(cafile=provider.ca or None)
    except (OSError, ssl.SSLError) as why:
        raise InstanceError(provider.name, f"the certificates in {provider.ca} cannot be read: {why}") from why
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def fields_of(provider: Provider) -> str:
    """The headers of each request to it, without those of its body."""
    usual = 443 if provider.is_tls else 80
    told = {
        "Host": bracketed(provider.host) if provider.port == usual else address_text(provider.host, provider.port),
        "User-Agent": f"ollamactl/{__version__}",  # some refuse who does not say one
        "Accept": "application/json, text/event-stream",
        "Accept-Encoding": "identity",
    }
    if provider.key:
        told["Authorization"] = f"Bearer {provider.key}"
    return "".join(f"{name}: {value}\r\n" for name, value in {**told, **provider.headers}.items())

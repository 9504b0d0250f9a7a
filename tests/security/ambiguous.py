"""Requests that two servers in a row may cut apart in two ways: what smuggling is made of (RFC 9112, 11.2)."""

from __future__ import annotations

from typing import Final

# What must never be answered as a request of its own.
HIDDEN: Final = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: smuggled\r\n\r\n"
_POST: Final = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
_GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
_TE: Final = b"Transfer-Encoding: chunked\r\n"
_EMPTY: Final = b"0\r\n\r\n"


def _length(value: bytes, body: bytes = b"abc") -> bytes:
    return _POST + b"Content-Length: " + value + b"\r\n\r\n" + body


def _coded(coding: bytes, more: bytes = b"") -> bytes:
    return _POST + b"Transfer-Encoding:" + coding + b"\r\n" + more + b"\r\n" + _EMPTY


def _chunks(body: bytes) -> bytes:
    return _POST + _TE + b"\r\n" + body


# Refused as they stand, whatever comes behind them.
REFUSED: Final[dict[str, bytes]] = {
    "length and chunks": _POST + b"Content-Length: 4\r\n" + _TE + b"\r\n" + _EMPTY,
    "chunks and length": _POST + _TE + b"Content-Length: 4\r\n\r\n" + _EMPTY,
    "two lengths": _POST + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n",
    "one length twice": _POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "lengths in one": _length(b"3, 3"),
    "a length with a sign": _length(b"+3"),
    "a negative length": _length(b"-3"),
    "a length in hexadecimal": _length(b"0x3"),
    "a length with a gap": _length(b"0 3"),
    "a length with an underscore": _length(b"1_0"),
    "a fraction of a length": _length(b"3.0"),
    "no length": _length(b""),
    "a length beyond 64 bits": _length(b"18446744073709551619"),
    "a length of thousands of digits": _length(b"0" * 5000 + b"3"),
    "chunked twice": _POST + _TE + _TE + b"\r\n" + _EMPTY,
    "chunked twice in one": _coded(b" chunked, chunked"),
    "something before chunked": _coded(b" gzip, chunked"),
    "identity before chunked": _POST + b"Transfer-Encoding: identity\r\n" + _TE + b"\r\n" + _EMPTY,
    "something behind chunked": _coded(b" chunked, identity"),
    "a comma before chunked": _coded(b" ,chunked"),
    "a comma behind chunked": _coded(b" chunked,"),
    "identity": _coded(b" identity"),
    "nearly chunked": _coded(b" xchunked"),
    "chunked with a parameter": _coded(b" chunked;q=1"),
    "chunked in quotes": _coded(b' "chunked"'),
    "chunked behind a vertical tab": _coded(b"\x0bchunked"),
    "chunked behind a NUL": _coded(b"\0chunked"),
    "no coding": _coded(b""),
    "a folded coding": _coded(b"\r\n chunked"),
    "a coding before a blank": _POST + b"Transfer-Encoding : chunked\r\n\r\n" + _EMPTY,
    "chunks in HTTP/1.0": _coded(b" chunked").replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a folded line": _GET + b"X-A: b\r\n c\r\n\r\n",
    "a line folded by a tab": _GET + b"X-A: b\r\n\tc\r\n\r\n",
    "a blank before the first header": b"GET / HTTP/1.1\r\n Host: localhost\r\n\r\n",
    "a blank before a colon": _GET + b"X-A : b\r\n\r\n",
    "a line without a colon": _GET + b"XA\r\n\r\n",
    "a header without a name": _GET + b": b\r\n\r\n",
    "bare line ends": _GET.replace(b"\r\n", b"\n") + b"\n",
    "one bare line end": _GET + b"X-A: b\nX-B: c\r\n\r\n",
    "a bare line end behind the request line": _GET.replace(b"1.1\r\n", b"1.1\n") + b"\r\n",
    "a bare line end at last": _GET + b"\n",
    "a bare carriage return": _GET + b"X-A: b\rX-B: c\r\n\r\n",
    "a NUL in a header": _GET + b"X-A: b\0c\r\n\r\n",
    "a NUL in a name": _GET + b"X\0A: b\r\n\r\n",
    "a control sign in a header": _GET + b"X-A: b\x01c\r\n\r\n",
    "a NUL in a path": b"GET /a\0b HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a path in Latin-1": b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a chunk's size before a blank": _chunks(b"3 \r\nabc\r\n" + _EMPTY),
    "a chunk's size with a prefix": _chunks(b"0x3\r\nabc\r\n" + _EMPTY),
    "a chunk's size with a sign": _chunks(b"-3\r\nabc\r\n" + _EMPTY),
    "a chunk's size beyond 64 bits": _chunks(b"10000000000000003\r\nabc\r\n" + _EMPTY),
    "a chunk without a size": _chunks(b"\r\nabc\r\n" + _EMPTY),
    "a chunk's size and a bare line end": _chunks(b"3\nabc\r\n" + _EMPTY),
    "a chunk and a bare line end": _chunks(b"3\r\nabc\n" + _EMPTY),
    "a chunk longer than it says": _chunks(b"3\r\nabcXX" + _EMPTY),
    "a chunk's extension and a bare line end": _chunks(b"3;a\nabc\r\n" + _EMPTY),
    "a line end in a chunk's extension": _chunks(b'3;a="x\r\n"\r\nabc\r\n' + _EMPTY),
    "a length behind the chunks": _chunks(b"3\r\nabc\r\n0\r\nContent-Length: 44\r\n\r\n"),
    "chunks behind the chunks": _chunks(b"3\r\nabc\r\n0\r\n" + _TE + b"\r\n"),
    "no Host": b"GET / HTTP/1.1\r\n\r\n",
    "two Hosts": _GET + b"Host: evil\r\n\r\n",
    "HTTP/0.9": b"GET / HTTP/0.9\r\nHost: localhost\r\n\r\n",
    "a request of HTTP/0.9": b"GET /\r\n\r\n",
    "HTTP/2.0": b"GET / HTTP/2.0\r\nHost: localhost\r\n\r\n",
    "HTTP/1.2": b"GET / HTTP/1.2\r\nHost: localhost\r\n\r\n",
    "HTTP in small letters": b"GET / http/1.1\r\nHost: localhost\r\n\r\n",
    "a method in small letters": b"get / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "two blanks and a word": b"GET / x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "tabs for blanks": b"GET\t/\tHTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a blank behind the version": b"GET / HTTP/1.1 \r\nHost: localhost\r\n\r\n",
    "a path without a slash": b"GET x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
}
# Taken, and then at most this one request is answered: what comes behind it is none.
LAST: Final[dict[str, bytes]] = {
    "a tunnel": b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "the last of its connection": _GET + b"Connection: close\r\n\r\n",
    "the last of an old connection": b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n",
}
# Taken, with this body; what comes behind is the next request.
TAKEN: Final[dict[str, tuple[bytes, bytes]]] = {
    "a length": (_length(b"3"), b"abc"),
    "a length with zeros": (_length(b"003"), b"abc"),
    "a length before a blank": (_length(b"3 "), b"abc"),
    "chunked in capitals": (_POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n3\r\nabc\r\n" + _EMPTY, b"abc"),
    "chunked behind a tab": (_POST + b"Transfer-Encoding:\tchunked \r\n\r\n3\r\nabc\r\n" + _EMPTY, b"abc"),
    "a chunk's extension": (_chunks(b'3;name=value;"q"\r\nabc\r\n'.replace(b';"q"', b"") + _EMPTY), b"abc"),
    "a header behind the chunks": (_chunks(b"3\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n"), b"abc"),
    "a coding with an underscore": (_POST + b"Transfer_Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    "a length that Connection names": (_POST + b"Connection: Content-Length\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
    "a request in the body": (_length(str(len(HIDDEN)).encode(), HIDDEN), HIDDEN),
    "line ends before it": (b"\r\n\r\n" + _length(b"3"), b"abc"),
}

"""A host and a port as one text, where an IPv6 address stands in brackets. It is read in `settings/syntax.py`."""

from __future__ import annotations


def bracketed(host: str) -> str:
    """A host as a URL has it."""
    return f"[{host}]" if ":" in host else host


def address_text(host: str, port: int) -> str:
    """`host:port`, or `[host]:port` of an IPv6 address."""
    return f"{bracketed(host)}:{port}"

"""Answers sealed before they go to Redis, where the settings name a key: AES-256-GCM, a nonce for each.

Redis and whoever reads its memory or its files then see lengths and names of models, and no word of an answer. A seal
is bound to the place where it lies: an answer that was copied to another key opens as nothing.

The cipher's library comes with the first secret: a worker that seals nothing is spared its 8 MiB.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MARK: Final = b"\x01"  # no JSON begins so
_NONCE_BYTES: Final = 12
_ID_BYTES: Final = 4


class Seal:
    """Seals with the first of its secrets, opens with all of them: the others are those of before.

    Without any, answers are kept as they are.
    """

    def __init__(self, secrets: Sequence[str] = ()) -> None:
        keys = [_derived(each) for each in secrets]
        self._ciphers = {_id(key): _cipher(key) for key in keys}
        self._first = _id(keys[0]) if keys else b""

    @property
    def is_on(self) -> bool:
        return bool(self._first)

    def close(self, plain: bytes, place: str) -> bytes:
        """`plain` as it is kept at `place`."""
        if not self._first:
            return plain
        nonce = os.urandom(_NONCE_BYTES)
        return _MARK + self._first + nonce + self._ciphers[self._first].encrypt(nonce, plain, place.encode())

    def open(self, kept: bytes, place: str) -> bytes | None:
        """What was closed; None where it cannot be read, or was not sealed though it should be: that is a miss."""
        if not kept.startswith(_MARK):
            return None if self._first else kept
        begin = len(_MARK) + _ID_BYTES
        cipher = self._ciphers.get(kept[len(_MARK) : begin])
        if cipher is None:
            return None
        from cryptography.exceptions import InvalidTag

        nonce, sealed = kept[begin : begin + _NONCE_BYTES], kept[begin + _NONCE_BYTES :]
        try:
            return cipher.decrypt(nonce, sealed, place.encode())
        except (InvalidTag, ValueError):  # ValueError: shorter than a nonce
            return None


def _cipher(key: bytes) -> AESGCM:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return AESGCM(key)


def _derived(secret: str) -> bytes:
    """A key of the right length. The secret is random and long, as the settings ask: nothing is stretched."""
    return hashlib.blake2b(secret.encode(), digest_size=32, person=b"olm answers").digest()


def _id(key: bytes) -> bytes:
    """Which key sealed an answer, told without telling the key."""
    return hashlib.blake2b(key, digest_size=_ID_BYTES, person=b"olm seal id").digest()

"""The keys that an issuer signs its tokens with, as it publishes them: a JWK set (RFC 7517) read.

Pure. Of a key only what is public of it is looked at, and only if it can check a signature of ours. What reads keys is
loaded with the first of them: a worker without issuers is spared its 4 MiB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import orjson

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey

MAX_KEYS: Final = 64
LEAST_RSA_BITS: Final = 2048
# What is public of a key: nothing else of it is looked at.
_PUBLIC: Final = ("kty", "crv", "n", "e", "x", "y")
_ALGORITHMS: Final[Mapping[str, tuple[str, ...]]] = {"RSA": ("RS256", "PS256"), "EC": ("ES256",), "OKP": ("EdDSA",)}


class FetchError(Exception):
    """An issuer did not say what it should. Its text quotes no more than statuses and hosts."""


@dataclass(frozen=True, slots=True)
class SigningKey:
    """One published key, and what it may sign."""

    id: str
    algorithms: tuple[str, ...]
    public: PublicKey


def keys_in(document: bytes) -> tuple[SigningKey, ...]:
    """The keys of a JWK set that can check a signature of ours; others are passed over. Raises FetchError."""
    try:
        listed = orjson.loads(document)["keys"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as why:
        raise FetchError("its keys are no JWK set") from why
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise FetchError(f"its keys are no list of at most {MAX_KEYS}")
    if found := tuple(key for each in listed if isinstance(each, dict) and (key := _key(each)) is not None):
        return found
    raise FetchError("none of its keys is for signatures by RS256, PS256, ES256 or EdDSA")


def _key(told: Mapping[str, Any]) -> SigningKey | None:
    kind = told.get("kty")
    if not isinstance(kind, str) or kind not in _ALGORITHMS:
        return None
    operations = told.get("key_ops", ["verify"])
    if told.get("use", "sig") != "sig" or not isinstance(operations, list) or "verify" not in operations:
        return None
    algorithms = tuple(each for each in _ALGORITHMS[kind] if told.get("alg", each) == each)
    public = _read(kind, {name: told[name] for name in _PUBLIC if name in told})
    return SigningKey(str(told.get("kid", "")), algorithms, public) if algorithms and _is_strong(public) else None


def _read(kind: str, told: dict[str, Any]) -> object:
    """None where it is no key."""
    from jwt import PyJWTError
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

    readers = {"RSA": RSAAlgorithm.from_jwk, "EC": ECAlgorithm.from_jwk, "OKP": OKPAlgorithm.from_jwk}
    try:
        return readers[kind](told)
    except (PyJWTError, ValueError, TypeError):
        return None


def _is_strong(public: object) -> TypeGuard[PublicKey]:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    if isinstance(public, RSAPublicKey):
        return public.key_size >= LEAST_RSA_BITS
    if isinstance(public, EllipticCurvePublicKey):
        return isinstance(public.curve, SECP256R1)
    return isinstance(public, Ed25519PublicKey)

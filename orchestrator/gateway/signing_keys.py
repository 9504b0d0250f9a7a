"""The keys that an issuer signs its tokens with, as it publishes them: a JWK set (RFC 7517) read.

Pure. Of a key only what is public of it is looked at, and only if it can check a signature of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import jwt
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

MAX_KEYS: Final = 64
LEAST_RSA_BITS: Final = 2048
# What is public of a key: nothing else of it is looked at.
_PUBLIC: Final = ("kty", "crv", "n", "e", "x", "y")
_ALGORITHMS: Final[Mapping[str, tuple[Callable[[dict[str, Any]], object], tuple[str, ...]]]] = {
    "RSA": (RSAAlgorithm.from_jwk, ("RS256", "PS256")),
    "EC": (ECAlgorithm.from_jwk, ("ES256",)),
    "OKP": (OKPAlgorithm.from_jwk, ("EdDSA",)),
}

PublicKey = RSAPublicKey | EllipticCurvePublicKey | Ed25519PublicKey


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
    read, may_sign = _ALGORITHMS[kind]
    algorithms = tuple(each for each in may_sign if told.get("alg", each) == each)
    try:
        public = read({name: told[name] for name in _PUBLIC if name in told})
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    return SigningKey(str(told.get("kid", "")), algorithms, public) if algorithms and _is_strong(public) else None


def _is_strong(public: object) -> TypeGuard[PublicKey]:
    if isinstance(public, RSAPublicKey):
        return public.key_size >= LEAST_RSA_BITS
    if isinstance(public, EllipticCurvePublicKey):
        return isinstance(public.curve, SECP256R1)
    return isinstance(public, Ed25519PublicKey)

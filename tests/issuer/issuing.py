"""A real OpenID Connect provider in a process of its own, and tokens that it would never sign."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from tests.clients.installed import node_with

HERE = Path(__file__).resolve().parent
AUDIENCE = "ollama"
GROUPS = {"robot": ["gpu-users"], "alice": ["gpu-admins", "staff"], "bob": ["gpu-users"]}


@dataclass(frozen=True, slots=True)
class Signer:
    """A key pair of an issuer."""

    id: str
    algorithm: str
    private: Any

    @property
    def public(self) -> dict[str, Any]:
        """As an issuer publishes it."""
        return {**_jwk(self.private.public_key()), "kid": self.id, "use": "sig"}

    @property
    def secret(self) -> dict[str, Any]:
        """As an issuer has it."""
        return {**_jwk(self.private), "kid": self.id, "use": "sig", "alg": self.algorithm}

    def token(self, claims: Mapping[str, Any], **head: Any) -> str:
        payload = json.dumps(claims).encode()  # whatever it says: a library for tokens would refuse some of it
        return jwt.PyJWS().encode(payload, self.private, self.algorithm, headers={"kid": self.id, **head})


def signer(algorithm: str = "RS256", key_id: str = "one") -> Signer:
    if algorithm == "ES256":
        return Signer(key_id, algorithm, ec.generate_private_key(ec.SECP256R1()))
    if algorithm == "EdDSA":
        return Signer(key_id, algorithm, ed25519.Ed25519PrivateKey.generate())
    return Signer(key_id, algorithm, rsa.generate_private_key(public_exponent=65537, key_size=2048))


def claims(issuer: str, **other: Any) -> dict[str, Any]:
    """What a token of alice says; None leaves a claim out."""
    now_s = int(time.time())
    usual = {"iss": issuer, "aud": AUDIENCE, "sub": "alice", "iat": now_s, "exp": now_s + 600, "groups": ["gpu-users"]}
    return {name: value for name, value in {**usual, **other}.items() if value is not None}


def encoded(part: Any) -> str:
    """A token's part."""
    return base64.urlsafe_b64encode(part if isinstance(part, bytes) else json.dumps(part).encode()).decode().rstrip("=")


def _jwk(key: Any) -> dict[str, Any]:
    if isinstance(key, rsa.RSAPublicKey | rsa.RSAPrivateKey):
        kind = RSAAlgorithm
    elif isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        kind = ECAlgorithm
    else:
        kind = OKPAlgorithm
    told: dict[str, Any] = kind.to_jwk(key, as_dict=True)  # type: ignore[attr-defined]
    told.pop("key_ops", None)
    return told


class Provider:
    """One that runs."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def robots_token(self) -> str:
        """An access token by client credentials: a JWT."""
        form = {"grant_type": "client_credentials", "scope": "infer"}
        reply = httpx.post(f"{self.url}/token", data=form, auth=("robot", "the-robots-secret"))
        assert reply.status_code == 200, reply.text
        return str(reply.json()["access_token"])


@contextmanager
def providing(port: int, page: str, *keys: Signer) -> Iterator[Provider]:
    """Started anew with other keys, it is an issuer that has rotated them."""
    node, scenes = node_with(HERE, "issuer-node")
    process = subprocess.Popen(
        [node, scenes / "issuer.mjs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    said = {
        "port": port,
        "page": page,
        "groups": GROUPS,
        "algorithm": keys[0].algorithm,
        "keys": {"keys": [each.secret for each in keys]},
    }
    try:
        process.stdin.write(json.dumps(said) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "ready\n"
        yield Provider(port)
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

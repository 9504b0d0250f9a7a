"""The cluster's own authority: certificates of hosts, which gateways check, and of gateways, which hosts demand.

Keys are ECDSA on P-256. A certificate says which of the two it is for: that of a host opens no other host. What is kept
where, and when what is made anew, is decided elsewhere.
"""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Iterable
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from orchestrator.core.certificates import Certificate, Held, life_at, renewed_at

YEARS: Final = 20
_NAME: Final = "ollamactl cluster"
# What a certificate of somebody else's may be read with: not all of these are ValueErrors.
_UNREADABLE: Final = (
    ValueError,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
_LONGEST_NAME: Final = 64  # of a common name (RFC 5280, ub-common-name)


class Authority:
    """One key and its certificate, and what they sign."""

    def __init__(self, pem: bytes) -> None:
        """Of what `made` gave. Raises ValueError."""
        key = load_pem_private_key(pem, None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise ValueError("its key is none of ours")
        self._key = key
        self._certificate = x509.load_pem_x509_certificate(pem)
        self.id = _key_id(self._certificate)
        self.until_unix_s = int(self._certificate.not_valid_after_utc.timestamp())

    @staticmethod
    def made(now_unix_s: int) -> bytes:
        """A new one, key and certificate in PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, _NAME)])
        since, _ = life_at(now_unix_s)
        until = now_unix_s + YEARS * 366 * 86_400
        usage = _usage(key_cert_sign=True, crl_sign=True)
        builder = _begun(name, name, key.public_key(), key.public_key(), (since, until))
        # No authority below this one.
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        certificate = builder.add_extension(usage, critical=True).sign(key, hashes.SHA256())
        return _pem_of(key) + certificate.public_bytes(Encoding.PEM)

    @property
    def certificate(self) -> str:
        """What is trusted by those who trust it, in PEM."""
        return self._certificate.public_bytes(Encoding.PEM).decode()

    def for_host(self, names: Iterable[str], now_unix_s: int) -> str:
        """Key and certificate of a host that is called by these names and addresses, the first of them its own."""
        several = list(dict.fromkeys(names))
        return self._signed(several[0], several, ExtendedKeyUsageOID.SERVER_AUTH, now_unix_s)

    @property
    def pem(self) -> str:
        """As `made` gave it."""
        return (_pem_of(self._key) + self._certificate.public_bytes(Encoding.PEM)).decode()

    @property
    def renewed_unix_s(self) -> float:
        """From then on another takes its place."""
        return renewed_at(int(self._certificate.not_valid_before_utc.timestamp()), self.until_unix_s)

    def for_client(self, name: str, now_unix_s: int, trusted: str = "") -> str:
        """Key and certificate of a machine that asks hosts, and behind it whose certificates it trusts: this one's."""
        own = self._signed(name, [name], ExtendedKeyUsageOID.CLIENT_AUTH, now_unix_s)
        return own + (trusted or self.certificate)

    def _signed(self, name: str, names: list[str], use: x509.ObjectIdentifier, now_unix_s: int) -> str:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name[:_LONGEST_NAME])])
        builder = _begun(
            subject, self._certificate.subject, key.public_key(), self._key.public_key(), life_at(now_unix_s)
        )
        for extension, is_critical in (
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (_usage(digital_signature=True), True),
            (x509.ExtendedKeyUsage([use]), False),
            (x509.SubjectAlternativeName([_general(each) for each in names]), False),
        ):
            builder = builder.add_extension(extension, critical=is_critical)
        signed = builder.sign(self._key, hashes.SHA256())
        return (_pem_of(key) + signed.public_bytes(Encoding.PEM)).decode()


def read_certificate(pem: str) -> Certificate | None:
    """What the first certificate in a text says; None where there is none that can be read."""
    try:
        read = x509.load_pem_x509_certificate(pem.encode())
        signed_by = read.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        named = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except _UNREADABLE:
        return None
    names = {str(each) for each in (*named.get_values_for_type(x509.DNSName), *_addresses(named))}
    since, until = read.not_valid_before_utc, read.not_valid_after_utc
    authority = signed_by.hex() if signed_by is not None else ""
    return Certificate(authority, frozenset(names), int(since.timestamp()), int(until.timestamp()))


def held_in(pem: str) -> Held | None:
    """Who signed the first certificate in a text, and which authorities are behind it; None: there are none."""
    try:
        own, *others = x509.load_pem_x509_certificates(pem.encode())
        signed_by = own.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        return Held((signed_by or b"").hex(), frozenset(map(_key_id, others)))
    except _UNREADABLE:
        return None


def ends_in(pem: bytes) -> tuple[int, ...]:
    """When each certificate in a text ends, in Unix seconds, in their order there. Raises ValueError: there is none."""
    try:
        return tuple(int(each.not_valid_after_utc.timestamp()) for each in x509.load_pem_x509_certificates(pem))
    except _UNREADABLE as why:
        raise ValueError(f"no certificate that can be read: {why}") from why


def _addresses(named: x509.SubjectAlternativeName) -> list[str]:
    return [str(each) for each in named.get_values_for_type(x509.IPAddress)]


def _begun(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
    life: tuple[int, int],
) -> x509.CertificateBuilder:
    since, until = (datetime.datetime.fromtimestamp(each, datetime.UTC) for each in life)
    builder = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number(), since, until)
    builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    by = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key)
    return builder.add_extension(by, critical=False)


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_id(certificate: x509.Certificate) -> str:
    return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()


def _pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

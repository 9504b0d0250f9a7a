"""What went wrong with TLS to an instance, in words for the operator: OpenSSL's reasons, and what may be done."""

from __future__ import annotations

import ssl
from typing import Final

# OpenSSL's numbers for a chain that leads to nobody who is trusted (X509_V_ERR_…).
_UNKNOWN_AUTHORITY: Final = (2, 18, 19, 20, 21)
_WANTS_ANOTHER: Final = (
    "ALERT_UNKNOWN_CA",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_ACCESS_DENIED",
)
_WANTS_ONE: Final = ("ALERT_CERTIFICATE_REQUIRED", "ALERT_HANDSHAKE_FAILURE")
_IN_CLEAR: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


def tls_trouble(error: BaseException | None) -> str:
    """What was wrong with TLS, where an error, or one behind it, says so; '' where it was something else."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        # aiohttp's own errors are called ones of `ssl`, and have none of their attributes: it keeps the true ones.
        for each in (getattr(error, "certificate_error", None), getattr(error, "os_error", None), error):
            if isinstance(each, ssl.SSLError) and hasattr(each, "reason"):
                return _in_words(each)
        error = error.__cause__ or error.__context__
    return ""


def _in_words(why: ssl.SSLError) -> str:
    if isinstance(why, ssl.SSLCertVerificationError):
        said = f"its certificate is refused: {why.verify_message.rstrip('.')}"
        is_unknown = why.verify_code in _UNKNOWN_AUTHORITY
        return f"{said}; `ca` names a file of the authorities that are trusted" if is_unknown else said
    reason = why.reason or ""
    if reason.endswith(_WANTS_ONE):
        return "it wants a certificate of ours: `cert` and `key`"
    if reason.endswith(_WANTS_ANOTHER):
        return f"it refuses our certificate ({reason.lower().replace('_', ' ')})"
    if reason in _IN_CLEAR:
        return "what answers there does not speak TLS"
    return f"TLS failed: {reason.lower().replace('_', ' ') or why}"

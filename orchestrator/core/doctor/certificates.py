"""Check of certificates that TLS to instances stands on: which ends soon or has ended, and whom another authority
of the cluster waits for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from orchestrator.core.certificates import SOON_DAYS
from orchestrator.core.doctor.seen import Seen
from orchestrator.core.doctor.told import Finding, Says

HELD_UP_S: Final = 600.0  # each change waits a while; the alert `AuthorityChangeHeldUp` goes off after as long
_DAY_S: Final = 86_400
_RENEWS: Final = "it is renewed while a cluster runs that leads: `controller.log` says why this one was not"
_FILE: Final = "put another into the file that `instances` names: it is read with the next connection"
_HELD_UP: Final = (
    "bring back who is named; a host that is gone for good is taken out of `nodes`, a machine is forgotten a minute "
    "after its gateways have ended"
)
# By kind: how it is called, and what mends it.
_KINDS: Final = {
    "authority": ("the cluster's own authority", "`ollamactl nodes renew-authority`, without an outage"),
    "host": ("the certificate that it shows to gateways", _RENEWS),
    "gateway": ("the certificate of this machine's gateways", _RENEWS),
    "server": ("the certificate that it shows", "have its owner renew it"),
    "server-ca": ("the authority that it is checked by", _FILE),
    "server-cert": ("the certificate that it is shown", _FILE),
}


def ending(seen: Seen) -> Iterator[Finding]:
    """Whether each lasts for a while."""
    says = Says("certificates")
    if seen.held_up:
        hurts = "until it is over, what the authority before it signed opens instances, too"
        since = seen.held_up_since_unix_s
        say = says.note if since is not None and seen.now_unix_s - since <= HELD_UP_S else says.warning
        yield say("authority", seen.held_up, hurts, _HELD_UP)
    for each in seen.certificates:
        what, mends = _KINDS[each.kind]
        if each.until_unix_s is None:
            yield says.unseen(each.whose, f"{what}: {each.why}")
            continue
        days = (each.until_unix_s - seen.now_unix_s) / _DAY_S
        if days <= 0:
            yield says.error(each.whose, f"{what} has ended", "instances behind TLS are not asked, or refuse", mends)
        elif days < SOON_DAYS:
            hurts = "from then on instances behind TLS are not asked, or refuse"
            yield says.warning(each.whose, f"{what} ends in {days:.0f} days", hurts, mends)
        else:
            yield says.ok(each.whose, f"{what} lasts {days:.0f} days")

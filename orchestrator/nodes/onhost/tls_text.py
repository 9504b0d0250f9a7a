"""What ends TLS before instances, as text: the template of its unit, and stunnel's settings.

Nothing of it comes from outside but where the host has stunnel.
"""

from __future__ import annotations

from orchestrator.nodes.onhost.units import INSTANCES

USER = "ollamactl-tls"  # neither root nor whom instances run as: those must not read the key
FOLDER = "/etc/ollamactl/tls"

_UNIT = """\
# TLS before one Ollama instance: it listens where gateways call, wants a certificate of the cluster's own authority,
# and hands on to the instance, which listens on loopback. Written by `ollamactl deploy`.

[Unit]
Description=TLS before Ollama instance %i
PartOf=ollama@%i.service
After=ollama@%i.service network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
User=<user>
EnvironmentFile=<instances>/%i.env
RuntimeDirectory=ollamactl-tls
RuntimeDirectoryMode=0700
# That of all instances: the first to stop must not take it from the others.
RuntimeDirectoryPreserve=yes
ExecCondition=/bin/sh -c 'test -n "$$OLLAMACTL_TLS"'
ExecStartPre=/bin/sh -c 'umask 077; { cat <folder>/stunnel.conf; \\
  printf "accept = %%s\\nconnect = %%s\\n" "$$OLLAMACTL_TLS" "$$OLLAMA_HOST"; } >"/run/ollamactl-tls/%i.conf"'
ExecStart=<program> /run/ollamactl-tls/%i.conf
# Certificates are read anew; what is under way goes on.
ExecReload=/bin/kill -HUP $MAINPID
TimeoutStopSec=10
Restart=always
RestartSec=2

# What it may not do: it has sockets, and reads its own files.
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectHostname=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM
UMask=0077
# Two connections a stream.
LimitNOFILE=65536
TasksMax=8192
"""

_SETTINGS = """\
; TLS before Ollama instances (stunnel). Behind this, for each instance: where it listens, and where to hand on to.
foreground = yes
syslog = no
debug = warning
pid =

[instance]
cert = <folder>/host.pem
CAfile = <folder>/authority.pem
verifyChain = yes
requireCert = yes
sslVersionMin = TLSv1.2
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
; An answer is silent while its model is loaded, and connections are kept between calls: gateways say when it is enough.
TIMEOUTidle = 86400
TIMEOUTclose = 5
"""


def unit_text(program: str) -> str:
    """The template of its unit; `program`: where stunnel is."""
    values = {"<user>": USER, "<instances>": str(INSTANCES), "<folder>": FOLDER, "<program>": program}
    text = _UNIT
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def settings_text() -> str:
    """stunnel's settings, without those that differ between instances."""
    return _SETTINGS.replace("<folder>", FOLDER)

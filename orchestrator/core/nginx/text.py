"""The text nginx reads for a `Site`: TLS, one pool of servers, unbuffered answers, limits, a log of JSON lines.

Every value in it was checked by `Site`; nothing else goes in. Each directive has its reason in the text itself: the
operator reads it there.
"""

from __future__ import annotations

from collections.abc import Iterator

from orchestrator.core.nginx.site import Site

MARK = "# Written by `ollamactl nginx`"
_HTTP2_DIRECTIVE_SINCE = (1, 25, 1)

# What callers of Ollama, OpenAI's and Anthropic's API ask. All else changes the instances: it pulls, deletes, uploads.
_ASKING = (
    r"^/(api/(generate|chat|embed|embeddings|tags|show|ps|version)"
    r"|v1/(chat/completions|completions|embeddings|responses|messages|models(/.*)?))?$"
)
_OPERATING = r"^/(metrics|status|status\.json)(/|$)"


def render(site: Site) -> str:
    """A file for nginx' `conf.d`: the same site gives the same text."""
    parts = (_head(site), _upstream(site), _maps(site), _zones(site), _log_format(site), _redirect(site), _server(site))
    return "\n".join("\n".join(lines) + "\n" for lines in map(list, parts) if lines)


def _head(site: Site) -> Iterator[str]:
    yield f"{MARK}, for nginx 1.15.6 or newer, to lie in its conf.d."
    yield "# It is written anew when that is run again: change `nginx` in cluster.yaml, not this."
    if site.is_direct:
        yield "# Straight over the instances of one model: no queue, no cache, no routes, no keys."


def _upstream(site: Site) -> Iterator[str]:
    yield f"upstream {site.name} {{"
    yield "    # Counts and failures are shared by nginx' workers."
    yield f"    zone {site.name} 128k;"
    yield "    # The fewest calls first. A server that cannot be reached is left out for 2 s."
    yield "    least_conn;"
    for server in site.servers:
        yield f"    server {server} max_fails=1 fail_timeout=2s;"
    yield ""
    yield "    keepalive 64;"
    yield "    keepalive_requests 100000;"
    yield "    # Less than the time after which a server closes an idle connection (a gateway 75 s, llama.cpp 5 s): a"
    yield "    # call sent into one that is being closed would fail, and nginx does not send a POST twice."
    yield f"    keepalive_timeout {'4s' if site.is_direct else '60s'};"
    yield "}"


def _maps(site: Site) -> Iterator[str]:
    yield "# A page served under this very name may call: for the server behind, asked as `localhost`, it is foreign."
    yield f'map "$scheme://$http_host|$http_origin" ${site.name}_origin {{'
    yield r'    "~^(?<page>[^|]+)\|\k<page>$" "";'
    yield "    default $http_origin;"
    yield "}"
    yield ""
    yield "# One id for this log, the gateway's log and the answer: the caller's, or one made here."
    yield f"map $http_x_request_id ${site.name}_request_id {{"
    yield r'    "~^[A-Za-z0-9._:@/+=-]{1,128}$" $http_x_request_id;'
    yield "    default $request_id;"
    yield "}"
    yield ""
    yield "# The one in the answer is the gateway's; an answer that has none gets this."
    yield f"map $upstream_http_x_request_id ${site.name}_added_id {{"
    yield f'    "" ${site.name}_request_id;'
    yield '    default "";'
    yield "}"


def _zones(site: Site) -> Iterator[str]:
    if site.limits.a_minute is not None:
        rate = f"rate={site.limits.a_minute}r/m"
        yield f"limit_req_zone $binary_remote_addr zone={site.name}_rate:10m {rate};"
    if site.limits.at_once is not None:
        yield f"limit_conn_zone $binary_remote_addr zone={site.name}_at_once:10m;"


_FIELDS = (
    ("time", '"$time_iso8601"'),
    ("client", '"$remote_addr"'),
    ("method", '"$request_method"'),
    ("path", '"$uri"'),  # without the query: it may hold a key, or text
    ("protocol", '"$server_protocol"'),
    ("status", "$status"),
    ("bytes_in", "$request_length"),
    ("bytes_out", "$bytes_sent"),
    ("seconds", "$request_time"),
    ("first_byte_s", '"$upstream_header_time"'),
    ("server", '"$upstream_addr"'),
    ("agent", '"$http_user_agent"'),
    ("id", '"$sent_http_x_request_id"'),
    ("tier", '"$upstream_http_x_tier"'),
    ("cache", '"$upstream_http_x_cache"'),
    ("instance", '"$upstream_http_x_instance"'),
    ("timing", '"$upstream_http_server_timing"'),
)


def _log_format(site: Site) -> Iterator[str]:
    yield "# One JSON object a line, with what the gateway said of the call. No body, no query, no key."
    yield f"log_format {site.name} escape=json"
    last = len(_FIELDS) - 1
    for index, (name, value) in enumerate(_FIELDS):
        opening, closing = "{" if index == 0 else "", "}';" if index == last else ",'"
        yield f'    \'{opening}"{name}":{value}{closing}'


def _redirect(site: Site) -> Iterator[str]:
    if not site.redirect_from:
        return
    yield "server {"
    yield from (f"    listen {each};" for each in site.redirect_from)
    yield f"    server_name {site.server_name};"
    yield f"    return 308 https://{site.server_name}$request_uri;"
    yield "}"


def _server(site: Site) -> Iterator[str]:
    yield "server {"
    for lines in (_listening(site), _callers(site), _bodies(site), _asking(site), _again(site), _places(site)):
        yield from (f"    {line}" if line else "" for line in lines)
        yield ""
    yield from (f"    {line}" for line in _errors(site))
    yield "}"


def _listening(site: Site) -> Iterator[str]:
    is_new = site.version >= _HTTP2_DIRECTIVE_SINCE
    tls = (" ssl" if is_new else " ssl http2") if site.has_tls else ""
    proxied = " proxy_protocol" if site.is_proxy_protocol else ""
    yield from (f"listen {each}{tls}{proxied};" for each in site.listen)
    if site.has_tls and is_new:
        yield "http2 on;"
    yield f"server_name {site.server_name};"
    yield "# What is behind refuses foreign names on a loopback address, so that no web page can reach it by a name of"
    yield "# its own (DNS rebinding). It is asked as `localhost` below, so the name is checked here, also where this"
    yield "# server is nginx' default one."
    yield "if ($host != $server_name) {"
    yield "    return 421;"
    yield "}"
    if site.has_tls:
        yield ""
        yield f"ssl_certificate {site.certificate};"
        yield f"ssl_certificate_key {site.key};"
        yield "ssl_protocols TLSv1.2 TLSv1.3;"
        yield f"ssl_session_cache shared:{site.name}_tls:5m;"
        yield "ssl_session_tickets off;"


def _callers(site: Site) -> Iterator[str]:
    if site.trusted_proxies:
        yield "# Whose word on the caller's address is believed; nobody else's."
        yield from (f"set_real_ip_from {each};" for each in site.trusted_proxies)
        yield f"real_ip_header {'proxy_protocol' if site.is_proxy_protocol else 'X-Forwarded-For'};"
        yield "real_ip_recursive on;"
    if site.limits.a_minute is not None:
        # nginx refuses `burst=0`, and without one `nodelay` is of no effect.
        burst = f" burst={site.limits.burst} nodelay" if site.limits.burst else ""
        yield f"limit_req zone={site.name}_rate{burst};"
        yield "limit_req_status 429;"
    if site.limits.at_once is not None:
        yield f"limit_conn {site.name}_at_once {site.limits.at_once};"
        yield "limit_conn_status 429;"
    yield f"access_log {site.access_log} {site.name};"
    yield f"add_header X-Request-Id ${site.name}_added_id always;"


def _bodies(site: Site) -> Iterator[str]:
    yield "# `limits.body_bytes` of cluster.yaml. Callers get its error as JSON from either."
    yield f"client_max_body_size {site.body_bytes};"
    yield "# A prompt goes past nginx as it comes in; it is never written to a file here."
    yield "proxy_request_buffering off;"


def _asking(site: Site) -> Iterator[str]:
    yield "# Tokens go out one by one."
    yield "proxy_buffering off;"
    yield "gzip off;"
    yield "proxy_http_version 1.1;"
    yield 'proxy_set_header Connection "";'
    yield "proxy_set_header Host localhost;"
    yield f"proxy_set_header Origin ${site.name}_origin;"
    yield f"proxy_set_header X-Request-Id ${site.name}_request_id;"
    yield "# The caller as nginx sees it, in place of what the caller says of itself."
    yield "proxy_set_header X-Real-IP $remote_addr;"
    yield "proxy_set_header X-Forwarded-For $remote_addr;"
    yield "proxy_set_header X-Forwarded-Proto $scheme;"
    yield ""
    yield "# How long an answer may take is the gateway's to say: `limits.queue_wait_s` + `limits.first_byte_s` before"
    yield "# its first byte, three instances in turn. This is longer, so that callers get its answer and not nginx'."
    yield "proxy_connect_timeout 3s;"
    yield f"proxy_read_timeout {site.silence_s}s;"
    yield "proxy_socket_keepalive on;"
    yield "# For a server that reads a prompt, or a caller that reads an answer: it may pause, it may not stop."
    yield "proxy_send_timeout 60s;"
    yield "send_timeout 60s;"
    yield "client_body_timeout 60s;"


def _again(site: Site) -> Iterator[str]:
    yield "# Another server is asked where one cannot be reached. A call that was sent is not sent again: an instance"
    yield "# may be at work on it already, and a gateway itself asks other instances as long as that is safe."
    yield "# `non_idempotent` would change this."
    yield "proxy_next_upstream error timeout;"
    yield f"proxy_next_upstream_tries {min(max(len(site.servers), 2), 4)};"
    yield "# A caller that leaves ends its call: its slot is free for the next one."
    yield "proxy_ignore_client_abort off;"


def _places(site: Site) -> Iterator[str]:
    operators = [*(f"    allow {each};" for each in site.operators), "    deny all;"]
    passed = f"    proxy_pass http://{site.name};"
    if site.is_direct:
        yield "# Asking is for everybody; all else changes the instances and is the operator's."
        yield from (f'location ~ "{_ASKING}" {{', passed, "}")
        yield from ("location / {", *operators, passed, "}")
    else:
        yield from ("location / {", passed, "}")
        yield "# The operator's paths."
        yield from (f'location ~ "{_OPERATING}" {{', *operators, passed, "}")


def _errors(site: Site) -> Iterator[str]:
    """nginx' own errors, as clients of Ollama read them. What the gateway answers is left as it is."""
    yield "# nginx' own errors, as clients of Ollama read them."
    nobody = "no instance of the model answered" if site.is_direct else "no gateway of the cluster answered"
    for codes, place, status, text, is_passing in (
        ("403", "operators", 403, "this path is for operators, from their own addresses", False),
        ("413", "too_large", 413, "the request body is larger than this server takes (limits.body_bytes)", False),
        ("421", "other_name", 421, "this server has another name", False),
        ("429", "too_many", 429, "too many calls from your address; ask again later", True),
        ("502 504", "nobody", 502, nobody, True),
    ):
        yield f"error_page {codes} @{place};"
        yield f"location @{place} {{"
        yield "    default_type application/json;"
        if is_passing:
            yield "    add_header Retry-After 2 always;"
            yield f"    add_header X-Request-Id ${site.name}_added_id always;"
        yield f'    return {status} \'{{"error":"{text}"}}\';'
        yield "}"

"""What the program of a restricted host does for whoever may start it: which programs, which steps, with which words.

The policy is a file of root's, written by `ollamactl nodes restrict`. Whatever comes in was maybe written by somebody
who stole the key: each word of it is held to a form, and what would give root (whom things run as, folders, texts of
units and rules) to what the policy says. What passes is done by the modules that do it elsewhere, too.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from orchestrator.nodes.onhost.environments import environment_text, forbidden
from orchestrator.nodes.onhost.work import Refused

FILE = "/etc/ollamactl/restricted.json"
PROGRAM = "/usr/local/lib/ollamactl/host.pyz"
PYTHON = "/usr/bin/python3"
REFUSED = 77  # the exit status of a no; the reason is the last line of the error output
MOST_NAME = 255 - len("ollama@.service")
# Each a program of its own elsewhere, with what it may be asked.
BASE, KEEPS, LOOK, READER = "base", "keeps", "look", "nvml"
GIVING, TAKING, LOGS, RUNS, VERSION = "giving", "taking", "logs", "runs", "version"
ASKED: dict[str, tuple[str, ...]] = {
    BASE: ("is_dry", "is_alone", "steps"),
    KEEPS: ("known",),
    LOOK: ("node", "models_dir", "interval_s", "most", "nvml_wait_s"),
    READER: (),
    GIVING: ("models_dir", "address", "bytes_s", "silence_s"),
    TAKING: (
        *("host", "port", "token", "parts", "manifest", "blobs", "models_dir"),
        *("owner", "later_bytes", "keep_free_bytes", "silence_s", "interval_s"),
    ),
    LOGS: ("instance", "lines", "follow"),
    RUNS: ("instance",),
    VERSION: (),
}
STEPS: dict[str, tuple[str, ...]] = {
    "system": (),
    "claim": ("place", "number", "by", "take_over"),
    "hold": ("place", "number", "leader"),
    "user": ("user",),
    "folders": ("user", "models_dir"),
    "look": ("digest",),
    "room": ("sent", "sent_bytes", "unpacked_bytes"),
    "receive": ("sent", "size"),
    "install": ("digest", "user", "sent", "is_archive"),
    "link": ("user",),
    "unit": ("text",),
    "firewall": ("text",),
    "look tls": (),
    "have tls": ("authority", "host"),
    "renew tls": ("authority", "host"),
    "permit": ("place", "number", "take_over"),
    "stop": (),
    "drop kept": (),
    "drop models": ("models_dir",),
    "drop user": ("user", "models_dir", "are_models_gone"),
    "drop folders": (),
}
VERBS: dict[str, tuple[str, ...]] = {
    "ping": (),
    "start": ("instance", "text", "environment", "port", "ready_s", "user"),
    "restart": ("instance",),
    "stop": ("instance",),
    "list": (),
    "marks": (),
    "listens": ("instance", "port"),
    "held": (),
}
_OPTIONAL = ("sent", "is_archive")  # of `install`, where the program is there already
# All else is done by one run at a time: two that unpack in one place could lead each other elsewhere.
_SIDE_BY_SIDE = ("hold", "receive")
_NEVER_DRY = ("install", "receive")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_RUN = re.compile(r"[0-9a-f]{32}|")
_PEM = re.compile(r"(-----BEGIN [A-Z0-9 ]+-----\n[A-Za-z0-9+/=\n]+-----END [A-Z0-9 ]+-----\n*)*")
_INSTANCE = re.compile(f"[A-Za-z0-9:_.@-]{{1,{MOST_NAME}}}")


class Policy(NamedTuple):
    """`texts`: by step, the sha256 of the one text that it may write; None: of none."""

    node: str
    user: str
    models_dir: str
    texts: Mapping[str, str | None]

    @property
    def again(self) -> str:
        return f"where that is wanted, run `ollamactl nodes restrict {self.node}` again"


def parse(content: str) -> Policy:
    """Raises Refused for what is no policy."""
    try:
        told = json.loads(content)
        texts = {str(step): None if text is None else str(text) for step, text in told["texts"].items()}
        return Policy(str(told["node"]), str(told["user"]), str(told["models_dir"]), texts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{FILE} is no policy: run `ollamactl nodes restrict` again") from error


def check_sent(policy: Policy, sent: Mapping[str, Any]) -> str:
    """Which program is asked for, once all that it is asked was checked. Raises Refused."""
    main = sent.get("main")
    if not isinstance(main, str) or main not in ASKED:
        raise Refused(f"main: {_shown(main)} is no program of a restricted host")
    asked = {name: value for name, value in sent.items() if name not in ("main", "version")}
    _check(policy, main, ASKED[main], asked)
    if main == BASE:
        _check_steps(policy, asked)
    return main


def _check_steps(policy: Policy, asked: Mapping[str, Any]) -> None:
    for step in asked["steps"]:
        check_step(policy, step)
    does = {step["do"] for step in asked["steps"]}
    if asked["is_dry"] and not does.isdisjoint(_NEVER_DRY):
        raise Refused(f"is_dry: {' and '.join(sorted(does.intersection(_NEVER_DRY)))} changes what is there")
    if not (asked["is_dry"] or asked["is_alone"]) and not does.issubset(_SIDE_BY_SIDE):
        raise Refused(f"is_alone: only {' and '.join(_SIDE_BY_SIDE)} may be done beside other steps")


def check_step(policy: Policy, step: Any) -> None:
    """Raises Refused for a step that is none, or whose words are not the policy's."""
    do = step.get("do") if isinstance(step, dict) else None
    if not isinstance(do, str) or do not in STEPS:
        raise Refused(f"do: {_shown(do)} is no step of a restricted host")
    asked = {name: value for name, value in step.items() if name != "do"}
    _check(policy, do, STEPS[do], asked, optional=_OPTIONAL if do == "install" else ())
    if "text" in asked and _digest(asked["text"]) != policy.texts.get(do, ""):
        raise Refused(f"{do}: text: not the one that this host was restricted to; {policy.again}")


def check_request(policy: Policy, request: Any) -> None:
    """What `keeps` is asked while it runs. Raises Refused."""
    verb = request.get("verb") if isinstance(request, dict) else None
    if not isinstance(verb, str) or verb not in VERBS:
        raise Refused(f"verb: {_shown(verb)} is none of a restricted host")
    _check(policy, verb, VERBS[verb], {name: value for name, value in request.items() if name not in ("id", "verb")})
    if verb != "start":
        return
    if wrong := forbidden(request["environment"]):
        raise Refused(f"start: environment: {_shown(wrong)} may not be set for an instance of a restricted host")
    if request["text"] != environment_text(request["environment"]):
        raise Refused("start: text: is not the environment as a file")


def _check(
    policy: Policy, what: str, names: Sequence[str], asked: Mapping[str, Any], optional: Sequence[str] = ()
) -> None:
    for name in names:
        if name not in asked and name not in optional:
            raise Refused(f"{what}: {name} is missing")
    for name, value in asked.items():
        if name not in names:
            raise Refused(f"{what}: {_shown(name)} is nothing that a restricted host is asked")
        if not _FORMS_OF.get((what, name), _FORMS[name])(value):
            raise Refused(f"{what}: {name}: {_shown(value)} is not what it should be")
        must = {"user": policy.user, "owner": policy.user, "models_dir": policy.models_dir}.get(name)
        if must is not None and value != must:
            raise Refused(f"{what}: {name}: this host was restricted to {must!r}, not {_shown(value)}; {policy.again}")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _digest(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()


# --- forms ------------------------------------------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_port(value: Any) -> bool:
    return _is_count(value) and 0 < value < 2**16


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0.05 <= value <= 1e6


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2**63


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and bool(_DIGEST.fullmatch(value))


def _is_instance(value: Any) -> bool:
    return isinstance(value, str) and bool(_INSTANCE.fullmatch(value))


def _is_environment(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _is_known(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_instance(name) and _is_run(each) for name, each in value.items())


def _is_run(value: Any) -> bool:
    is_run = isinstance(value, dict) and set(value) == {"pid", "run"} and _is_count(value["pid"])
    return is_run and isinstance(value["run"], str) and bool(_RUN.fullmatch(value["run"]))


def _is_pem(value: Any) -> bool:
    return isinstance(value, str) and bool(_PEM.fullmatch(value))


def _is_blobs(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_count(each) for each in value.values())


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _or_none(form: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or form(value)


# An argument means the same wherever it stands. What is checked no further here is held to more where it is used.
_FORMS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("place", "by", "user", "owner", "models_dir", "node", "address", "host", "token"), _is_text),
    **dict.fromkeys(("take_over", "is_archive", "are_models_gone", "is_dry", "is_alone", "follow"), _is_flag),
    **dict.fromkeys(("number", "leader", "sent_bytes", "unpacked_bytes", "size", "lines"), _is_count),
    **dict.fromkeys(("later_bytes", "keep_free_bytes"), _is_count),
    **dict.fromkeys(("interval_s", "nvml_wait_s", "silence_s", "ready_s"), _is_time),
    "text": _or_none(_is_text),
    "digest": _is_digest,
    "sent": _is_digest,
    "steps": _is_list,
    "instance": _is_instance,
    "environment": _is_environment,
    "port": _or_none(_is_port),
    "known": _is_known,
    "most": _or_none(_is_count),
    "bytes_s": _or_none(_is_rate),
    "parts": _is_texts,
    "manifest": _is_text,
    "blobs": _is_blobs,
    "authority": _is_pem,
}
_FORMS_OF: dict[tuple[str, str], Callable[[Any], bool]] = {
    ("have tls", "host"): _or_none(_is_pem),
    ("renew tls", "host"): _or_none(_is_pem),
}

"""`ollamactl route explain`, drawn: the question, the route that takes it, and the chain of targets of each route."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from orchestrator.cli.output import console, hanging, literal

_UNITS: Final = {
    "rpm": "requests a minute",
    "rpd": "requests a day",
    "tpm": "tokens a minute",
    "tpd": "tokens a day",
    "concurrent": "at once",
    "usd_day": "$ a day",
    "usd_month": "$ a month",
    "told": "its provider's word",
}


def draw_explained(told: dict[str, Any]) -> None:
    """Print all of it."""
    privacy = told["privacy"]
    console.print(f"difficulty  [bold]{told['level']}[/bold] of 10 ({told['points']:.2f})")
    console.print(f"type        {told['kind']}, {told['work']}")
    console.print(f"language    {told['language'] or 'neither Turkish nor English was recognised'}")
    hanging("because     ", literal("; ".join(told["reasons"])))
    why = ", ".join(privacy["found"]) or privacy["why"] or "nothing private was recognised"
    console.print(f"privacy     {privacy['class']}: {literal(why)}")
    _draw_taken(told)
    for name, route in told["routes"].items():
        _draw_route(name, route, privacy["class"])
    if not told["routes"]:
        console.print("route       none: the configuration has no routes")


def _draw_taken(told: dict[str, Any]) -> None:
    if not told["matches"]:
        return
    asked = literal(told["asks_for"] or "nothing")
    taken = literal(told["taken_by"] or "no route: a model of that name answers, if there is one")
    console.print(f"call        asks for {asked} → {taken}")
    for each in told["matches"]:
        said = ", ".join(each["says"]) or "any route"
        came = f"not its {each['fails_on']}" if each["fails_on"] else "holds"
        console.print(f"  match     {literal(each['route'])} ({said}): {came}")


def _draw_route(name: str, route: dict[str, Any], privacy: str) -> None:
    """`privacy`: the class by the question alone."""
    first, *backups = route["tiers"]
    console.print(f"route       [bold]{literal(name)}[/bold] → {_named(first)}")
    hanging("  rule      ", literal(route["rule"]))
    if route["privacy"]["class"] != privacy:
        console.print(f"  privacy   {route['privacy']['class']}: {literal(route['privacy']['why'])}")
    if (doubt := route["in_doubt"]) is not None:
        told = f"{doubt['stays']} answers, once its API key has sent {doubt['rpm']} such questions up in a minute"
        hanging("  doubt     ", literal(told))
    if route["scored_by"]:
        hanging("  scorer    ", f"{literal(route['scored_by'])} is asked how hard it is; here the weights have judged")
    hanging("  backup    ", ", then ".join(map(_named, backups)) or "none")
    if route["answers"] != first["tier"]:
        hanging("  answers   ", literal(route["answers"] or "nobody at this moment: each target below says why"))
    if route["escalates_to"]:
        above = ", then ".join(map(_named, route["escalates_to"]))
        hanging("  above     ", f"{above} if {literal(', '.join(route['escalates_if']))}")
    for each in {target["tier"]: target for target in (*route["tiers"], *route["escalates_to"])}.values():
        for line in _remarks(each):
            hanging("  target    ", literal(f"{each['tier']}: {line}"))


def _named(target: dict[str, Any]) -> str:
    return literal(f"{target['tier']} ({target['model']})")


def _remarks(target: dict[str, Any]) -> Iterator[str]:
    """What keeps a target from answering, or may."""
    if not target["may_answer"]:
        yield f"is outside, takes {target['accepts']} calls at most, and may not have this one"
    if target["state"] == "open":
        yield f"fails or is slow, left alone for {target['opens_in_s']:.0f} s"
    elif target["state"] == "half-open":
        yield "failed or was slow, one call tries it"
    for each in target["limits"]:
        limits = "; ".join(_limit(kind, limit, each["used"].get(kind)) for kind, limit in each["allowed"].items())
        free = f"used up ({_UNITS[each['used_up']]}), free in {each['free_in_s']:.0f} s" if each["used_up"] else ""
        whose = "" if each["scope"].startswith("tier:") else f"{each['scope'].partition(':')[2]}: "
        yield whose + "; ".join(filter(None, (limits, free)))


def _limit(kind: str, allowed: float, used: float | None) -> str:
    so_far = "" if used is None else f"{used:,.10g} of "
    return f"{so_far}{allowed:,.10g} {_UNITS[kind]}"

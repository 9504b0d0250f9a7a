"""Secrets in a text: keys that say what they are by their first letters, and what somebody calls a password."""

from __future__ import annotations

import re
from collections.abc import Iterator

# As those who issue them document them.
_ISSUED = re.compile(
    r"""(?<![A-Za-z0-9])(?:
      sk-[A-Za-z0-9_-]{20,}                                     # OpenAI, Anthropic, OpenRouter and those alike
    | (?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{16,}               # Stripe
    | gh[pousr]_[A-Za-z0-9]{30,} | github_pat_\w{22,}           # GitHub
    | glpat-[\w-]{20,}                                          # GitLab
    | (?:AKIA|ASIA)[0-9A-Z]{16}                                 # AWS
    | AIza[\w-]{35}                                             # Google
    | xox[abeprs]-[A-Za-z0-9-]{10,}                             # Slack
    | hf_[A-Za-z0-9]{30,}                                       # Hugging Face
    | gsk_[A-Za-z0-9]{30,}                                      # Groq
    | npm_[A-Za-z0-9]{36} | pypi-[\w-]{40,}
    | SG\.[\w-]{16,}\.[\w-]{16,}                                # SendGrid
    | eyJ[\w-]{10,512}+\.eyJ[\w-]{10,}\.[\w-]{5,}              # a JSON web token
    | AGE-SECRET-KEY-1[A-Z0-9]{50,}
    | (?<=[Bb]earer\ )(?=\S{0,64}\d)[\w.~+/-]{16,}=*            # what an HTTP request is let in by
    | (?<=uthorization:\ Basic\ )[A-Za-z0-9+/]{8,}=*
    )"""
    r"|-----BEGIN\ [A-Z ]{0,30}PRIVATE\ KEY(?:\ BLOCK)?-----(?:[^-]{1,8192}-----END[^-]{1,40}-----)?"
    r"|(?<![A-Za-z0-9+.-])[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{1,64}:[^\s/@]{3,128}@(?=[\w.\[])",
    re.VERBOSE,
)
_CALLED = re.compile(
    r"(?<![^\W_])(?:pass(?:word|wd|phrase|code)s?|pwd|parola(?:m|mız|sı|nız)?|[şs]ifre(?:m|miz|si|niz)?"
    r"|pin(?: ?kodu?m?| code)?|(?:api|access|private|secret|auth)[ _-]?(?:key|token)|secret|token"
    r"|(?:api|eri[şs]im) anahtar[ıi](?:m|mız)?)"
    r"['\"]?(?P<link>\s{0,3}(?::=|=>|[:=])\s{0,3}|\s+(?:is|was|şu|su|olarak)?\s{0,2}:?\s{0,2})"
    r"(?P<quote>[\"'`“]?)(?P<said>[^\s\"'`“”,;<>]{4,128})",
    re.IGNORECASE,
)
# What stands where a secret would: types, names of variables, and stars.
_STANDS_FOR_ONE = re.compile(
    r"[*•x.]+|(?:none|null|nil|true|false|required|optional|string|str|int|text|secret|password|token|here|yok|boş|gerekli"
    r"|zorunlu|değiştir\w*|unut\w*|reset\w*|manager|policy|field|alan[ıi]?)[.!?)]*|[$%{<(\[].*|env[:.].*|file:.*|os\..*|.*\(.*\)?",
    re.IGNORECASE,
)


def secrets(text: str) -> Iterator[tuple[int, int]]:
    """Where keys and passwords stand: the secret itself, not what it is called."""
    yield from (each.span() for each in _ISSUED.finditer(text))
    for each in _CALLED.finditer(text):
        if _is_secret(
            each["said"], is_assigned=any(mark in each["link"] for mark in ":="), is_quoted=bool(each["quote"])
        ):
            yield each.span("said")


def _is_secret(said: str, *, is_assigned: bool, is_quoted: bool) -> bool:
    """Behind a colon any word may be one; in a sentence, what is no word: with digits, or quoted."""
    said = said.rstrip(".!?)")
    if len(said) < 4 or _STANDS_FOR_ONE.fullmatch(said):
        return False
    is_no_word = any(each.isdigit() for each in said) or bool(re.search(r"\w[@#$%&*!?+=^~]\w?", said))
    return is_no_word or is_quoted or (is_assigned and len(said) >= 6)

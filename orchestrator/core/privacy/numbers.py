"""Numbers that identify: IBANs, payment cards, Turkish identity numbers and telephones, as people write them.

The first three end in check digits, which tell them from other long numbers: 1 of 97 wrong IBANs passes, 1 of 100
wrong identity numbers, 1 of 10 wrong cards. Sources: ISO 13616 (IBAN registry), ISO/IEC 7812-1 with Luhn's formula (US
patent 2,950,048), and the rule of the Turkish population administration (law 5490).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import accumulate

Span = tuple[int, int]

# --- IBAN ------------------------------------------------------------------------------------------------------------

_IBAN_LETTERS = {
    code: int(length)
    for length, codes in {
        "15": "NO", "16": "BE", "18": "DK FI FK FO GL NL SD", "19": "MK SI", "20": "AT BA EE KZ LT LU MN XK",
        "21": "CH HR LI LV", "22": "BG BH CR DE GB GE IE ME RS VA", "23": "AE GI IL IQ OM SO TL",
        "24": "AD CZ ES MD PK RO SA SE SK TN VG", "25": "LY PT ST", "26": "IS TR", "27": "BI DJ FR GR IT MC MR SM",
        "28": "AL AZ BY CY DO GT HU LB NI PL SV", "29": "BR EG PS QA UA", "30": "JO KW MU YE", "31": "MT SC",
        "32": "LC", "33": "RU",
    }.items()
    for code in codes.split()
}  # fmt: skip
_IBAN_START = re.compile(r"(?<![^\W_])([A-Za-z]{2})(?=[ .-]?\d[ .-]?\d)")
_BETWEEN_IBAN = " .-\n"


def ibans(text: str) -> Iterator[Span]:
    """International bank account numbers whose check digits are right."""
    for begin in _IBAN_START.finditer(text):
        length = _IBAN_LETTERS.get(begin[1].upper())
        if length and (end := _end_of(text, begin.start(), length)) and _is_iban(text[begin.start() : end]):
            yield begin.start(), end


def _end_of(text: str, start: int, length: int) -> int | None:
    """Behind the `length`th letter or digit from `start` on, if no more than one blank or dash lies between two."""
    left, is_parted = length, False
    for place in range(start, min(len(text), start + 2 * length)):
        letter = text[place]
        if letter.isascii() and letter.isalnum():
            left, is_parted = left - 1, False
            if not left:
                follows = text[place + 1 : place + 2]
                return None if follows.isascii() and follows.isalnum() else place + 1
        elif is_parted or letter not in _BETWEEN_IBAN:
            return None
        else:
            is_parted = True
    return None


def _is_iban(written: str) -> bool:
    letters = "".join(each for each in written.upper() if each.isalnum())
    return int("".join(str(int(each, 36)) for each in letters[4:] + letters[:4])) % 97 == 1


# --- groups of digits ------------------------------------------------------------------------------------------------

_RUN = re.compile(r"(?<![\w.])(?<!\d,)\d{2,}(?:(?:[ .-]| - )\d+)*(?![\w])")
_DIGITS = re.compile(r"\d+")
_MOST_GROUPS = 11

# How card numbers are grouped: in fours, as American Express and Diners do, or not at all.
_CARD_GROUPS = {
    (4, 4, 4, 4),
    (4, 6, 5),
    (4, 6, 4),
    *((4, 4, 4, 4, n) for n in (1, 2, 3)),
    *((n,) for n in range(13, 20)),
}
# First digits of Visa, Mastercard, American Express, Diners, JCB, Discover, UnionPay, Maestro and Troy.
_CARD_START = re.compile(r"4|5[0-8]|2(?:2[2-9]|[3-6]|7[01]|720)|3[4-8]|30|6|9792")


def _groups(text: str, lengths: range) -> Iterator[tuple[str, tuple[int, ...], Span]]:
    """Runs of digits and whole groups of them: their digits, how they are grouped, and where they stand."""
    for run in _RUN.finditer(text):
        if len(run[0]) < lengths[0]:
            continue
        groups = [(each.start() + run.start(), each.end() + run.start()) for each in _DIGITS.finditer(run[0])]
        for first in range(len(groups)):
            some = groups[first : first + _MOST_GROUPS]
            for last, total in enumerate(accumulate(end - start for start, end in some)):
                if total > lengths[-1]:
                    break
                if total >= lengths[0]:
                    used = some[: last + 1]
                    digits = "".join(text[start:end] for start, end in used)
                    yield digits, tuple(end - start for start, end in used), (used[0][0], used[-1][1])


def cards(text: str) -> Iterator[Span]:
    """Payment card numbers whose check digit is right."""
    for digits, grouped, span in _groups(text, range(13, 20)):
        if grouped in _CARD_GROUPS and _CARD_START.match(digits) and _is_luhn(digits):
            yield span


def _is_luhn(digits: str) -> bool:
    doubled = (sum(divmod(2 * int(each), 10)) for each in digits[-2::-2])
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def identities(text: str) -> Iterator[Span]:
    """Turkish identity numbers (TCKN, and those of foreign residents), whose two check digits are right."""
    for digits, grouped, span in _groups(text, range(11, 12)):
        if (len(grouped) == 1 or all(2 <= each <= 5 for each in grouped)) and _is_identity(digits):
            yield span


def _is_identity(digits: str) -> bool:
    numbers = [int(each) for each in digits]
    tenth = (7 * sum(numbers[0:9:2]) - sum(numbers[1:8:2])) % 10
    return numbers[0] != 0 and numbers[9] == tenth and numbers[10] == sum(numbers[:10]) % 10


# --- telephones ------------------------------------------------------------------------------------------------------

_S = r"[ ./()-]{0,3}"  # between two digits
_PHONES = tuple(
    re.compile(each)
    for each in (
        # Turkey: with its prefix any network, without one mobile networks alone.
        rf"(?<![\w+.])(?:(?:\+|00)?90{_S}0?|\(?0){_S}(?:5\d\d|[234]\d\d|8[05]0){_S}\d{{3}}{_S}\d{{2}}{_S}\d{{2}}(?!\w)",
        r"(?<![\w+.,-])\(?5[0-6]\d(?:\) ?| ?|[.-])\d{3}[ .-]?\d{2}[ .-]?\d{2}(?![\w,-])",
        # With a country's code, as E.164 counts digits.
        rf"(?<![\w+])\+[1-9](?:{_S}\d){{7,14}}(?!\w)",
        rf"(?<![\w+.])(?<!\d[ -])00[1-9](?:{_S}\d){{9,14}}(?!\w)",
        # North America, and the trunk prefix 0 of most of Europe.
        r"(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-. ])[2-9]\d\d[-.]\d{4}(?![\w-])",
        r"(?<![\w.+-])\(?0[1-9]\d{1,3}\)?[ /-]\d{3,4}[ -]?\d{3,4}(?![\w-])",
        r"(?<![\w.+-])\(?0[1-9]\d{1,3}\)?(?:[ /-]\d{2,3}){3,4}(?![\w-])",
    )
)
# Digits as close to each other as those of one number, seven at least: nothing else is looked at more closely.
_REGION = re.compile(r"[+(]{0,2}\d(?:[ ./()-]{0,3}\d){6,}")
_SAID = re.compile(r"\+?\(?\d(?:[ ./()-]{0,2}\d){6,14}(?!\w)")
_CALLED = re.compile(
    r"(?<!\w)(?:tel(?:\.|efon(?:u|um|umuz|numaras[ıi]|numaram)?)?|(?:tele)?phone|gsm|cep|whatsapp|mobile|fax|faks)"
    r"(?: (?:no|num(?:ber|aras[ıi]|aram|aram[ıi]z)|is|at))*[ :.#=]{0,3}$",
    re.IGNORECASE,
)
_LONGEST_CALLED = 48


def phones(text: str) -> Iterator[Span]:
    """Telephone numbers, by their form or by what stands before them."""
    for region in _REGION.finditer(text):
        start, ends = region.start(), region.start()
        until = region.end() + 1  # what follows must be seen
        if _CALLED.search(text, max(0, start - _LONGEST_CALLED), start) and (said := _SAID.match(text, start, until)):
            spans = [said.span()]
        else:
            spans = sorted(each.span() for pattern in _PHONES for each in pattern.finditer(text, start, until))
        for span in spans:
            if span[0] >= ends:
                yield span
                ends = span[1]

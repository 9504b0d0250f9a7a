"""Whether an answer begins by refusing, or by saying that it does not know: in English and in Turkish.

Looks at an answer's first words alone: who says later what it cannot know has said something before. An apology is no
refusal by itself ("I'm sorry to hear that"); what it is for must follow.
"""

from __future__ import annotations

import re
from typing import Final

from orchestrator.core.letters import lower, without_marks

# Of the answer's beginning; the longest opening below ends well within it.
LOOKED_AT: Final = 160

_UNABLE = (
    r"(?:can ?not|can't|could ?n[o']t|am (?:not able|unable)|'?m (?:not able|unable)|won't|will not|do(?: not|n't))"
)
_DOING = (
    r"(?:help|assist|answer|provide|comply|fulfil+|do|discuss|engage|support|generate|create|give|share|access|know"
    r"|have|determine|verify|find|tell|see|browse|complete|respond)"
)
_ENGLISH: Final = (
    rf"(?:(?:i(?:'m| am)? )?(?:(?:very|so|really|truly) )?(?:sorry|afraid)|unfortunately|apologies|i apologi[sz]e)\W+"
    rf"(?:but |for the inconvenience\W+(?:but )?|that )?i ?{_UNABLE}",
    rf"i ?{_UNABLE} (?:\w+ly )?(?:to )?(?:be able to )?{_DOING}(?! (?:believe|think so|agree))",
    r"(?:as|being) an? (?:\w+ )?(?:ai|artificial intelligence|(?:large )?language model|assistant)\b",
    r"(?:i am|i'm) (?:just |only )?(?:an ai|a (?:large )?language model)\b",
    r"(?:i am|i'm) not (?:entirely |really |quite )?(?:sure|certain|familiar|aware|able)\b",
    r"i have no (?:idea|information|knowledge|way|access|data)\b",
    r"i (?:must|have to|need to) (?:\w+ )?(?:decline|refuse)\b",
    r"i (?:lack|don't possess|do not possess) ",
    r"it (?:is|'s) (?:not possible|impossible) for me\b",
    r"(?:this|that) (?:information )?is (?:beyond|outside) my\b",
    r"there is not enough (?:information|context)\b",
    r"no (?:information|answer) (?:is )?(?:available|found)\b",
)
# Without the marks of Turkish letters: a model that leaves them off refuses all the same.
_CANNOT = r"(?!tamam)\w+[ae]m(?:[ae](?:m|yiz|yacagi[mz]|yecegi[mz]|di[mk])|[iu]yoru[mz])\b"
_TURKISH: Final = (
    rf"(?:uzgunum|maalesef|ne yazik ki|ozur dilerim|kusura bakmayin)\W+(?:(?:\w+\W+){{0,7}})"
    rf"(?:{_CANNOT}|bilmiyorum|bilmem|mumkun degil|bilgim yok|bilgiye sahip degilim|erisimim yok|yok\b)",
    r"(?:bunu |bu(?:nun)? \w+ |bu konuda |bu konu hakkinda |kesin (?:olarak )?|tam olarak |cevabi |yaniti )?"
    r"(?:bilmiyorum|bilemiyorum|bilemem|emin degilim)\b",
    rf"(?:size )?(?:bu|boyle bir|bunu)\b(?:\W+\w+){{0,4}}\W+{_CANNOT}",
    r"(?:bu konuda |size )?(?:yardimci olamam|yardimci olamiyorum|yardim edemem)\b",
    r"(?:bir )?(?:yapay zeka|dil)(?: dil)? (?:modeli|asistani) ?(?:olarak|oldugum|yim|olduğumdan)",
    r"(?:bu konuda |bununla ilgili |bu konu hakkinda )?(?:hicbir |yeterli |bir )?(?:bilgim|fikrim|bilgi)"
    r" (?:yok|bulunmuyor|sahip degilim)\b",
    r"(?:bu konuda )?(?:yeterli )?bilgiye sahip degilim\b",
)
_OPENING = re.compile(rf"(?:{'|'.join((*_ENGLISH, *_TURKISH))})")


def refuses(text: str) -> bool:
    """Whether `text`, an answer or its beginning, opens with a refusal."""
    plain = text[: 2 * LOOKED_AT].replace("*", "").lstrip(" \t\r\n_#>\"'“”-")
    said = lower(plain, is_turkish=False)[:LOOKED_AT]
    return _OPENING.match(without_marks(said.replace("’", "'"))) is not None

"""One spelling for a plain question, however it is typed: what a cache may take for the same text.

Capitals, blanks, closing marks and wide letters say nothing in "Otoyol  hız limiti?". In a sum, in code, in a name that
is a small word otherwise ("the US", "in May") and in questions about words they do: those stay as they are.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from orchestrator.core.faq import fold
from orchestrator.core.letters import lower
from orchestrator.core.paraphrase.plain import LETTERS_MAX, language_of

# ², ½, Ⅳ: as NFKC has them, 10² would be 102.
_NUMBERS_THAT_CHANGE = frozenset({"No", "Nl"})
_WORDS_OF_A_SHOUT = 3


def folded(question: str) -> str | None:
    """The spelling that all of them share; None where the question is to be taken by its letter.

    Compatibility forms become plain ones (NFKC), capitals small ones by the question's language (I is ı in Turkish),
    runs of blanks one, and closing marks go. In other languages than Turkish and English nothing is known of capitals.
    """
    return _folded(question) if len(question) <= LETTERS_MAX else None


# What is asked often is what is cached, and reading a question takes a tenth of giving a near answer.
@lru_cache(maxsize=2048)
def _folded(question: str) -> str | None:
    if any(unicodedata.category(each) in _NUMBERS_THAT_CHANGE for each in question):
        return None
    text = re.sub(" +", " ", unicodedata.normalize("NFKC", question).strip())
    # Who writes everything in capitals marks no name by them; a word or two may be one.
    is_shouted = text.isupper() and text.count(" ") >= _WORDS_OF_A_SHOUT - 1
    language = language_of(lower(text, is_turkish=True) if is_shouted else text)
    return fold(text, language) if language else None

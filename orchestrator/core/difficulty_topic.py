"""What a question's words tell of its difficulty: each word and pair of words looked up in a table of small weights.

Knows how a text becomes places in the table. The table is the trained model's (`difficulty_model`). There is no list of
words: a word's place is a hash of its beginning, so the table has one size and unknown words cost nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Final
from zlib import crc32

BITS: Final = 15
STEM: Final = 6  # letters of a word that count: endings tell grammar
_MASK: Final = (1 << BITS) - 1
_LOGS: Final = tuple(1.0 + math.log(each) for each in range(1, 65))


def places(words: Sequence[str]) -> dict[int, float]:
    """Places in the table with their strength, for `words` in small letters without marks.

    A word that comes again counts less each time, and a long text as much as a short one.
    """
    stems = ["0" * min(len(word), 4) if word.isdigit() else word[:STEM] for word in words]
    seen = Counter(stems)
    seen.update([f"{first} {second}" for first, second in pairwise(stems)])
    found: dict[int, float] = {}
    even = 1.0 / math.sqrt(len(seen)) if seen else 0.0
    for stem, times in seen.items():
        place = crc32(stem.encode("utf-8", "replace")) & _MASK
        found[place] = found.get(place, 0.0) + _LOGS[min(times, 64) - 1] * even
    return found

"""What kind of work a question asks for, and the language it is in.

Knows which cue names which kind, and the words that only one of the two languages has. How hard it is, it does not ask.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from orchestrator.core.difficulty_cues import Cue


class Work(StrEnum):
    """What the answer is made of."""

    CODE = "code"
    REASONING = "reasoning"
    EXTRACTION = "extraction"
    SUMMARY = "summary"
    CLASSIFICATION = "classification"
    TRANSLATION = "translation"
    RAG = "rag"
    REWRITING = "rewriting"
    CREATIVE = "creative"
    SMALL_TALK = "small talk"
    QUESTION = "question"


# Of several kinds in one question the first here is its name: the dearer, or the more exactly named.
_NAMED: Final = (
    (Cue.RAG, Work.RAG),  # before code, of which a vector database is, too
    (Cue.CODE, Work.CODE),
    (Cue.PROOF, Work.REASONING),
    (Cue.TRANSLATION, Work.TRANSLATION),
    (Cue.SUMMARY, Work.SUMMARY),
    (Cue.CLASSIFICATION, Work.CLASSIFICATION),
    (Cue.EXTRACTION, Work.EXTRACTION),
    (Cue.REWRITING, Work.REWRITING),
    (Cue.MATHS, Work.REASONING),
    (Cue.CREATIVE, Work.CREATIVE),
    (Cue.REASONS, Work.REASONING),
    (Cue.STRUCTURED, Work.EXTRACTION),  # what is told, in a form that programs read
)
TEXT_WORK: Final = (Cue.SUMMARY, Cue.EXTRACTION, Cue.CLASSIFICATION, Cue.TRANSLATION, Cue.REWRITING, Cue.RAG)

_READ: Final = 200  # words that are looked at: more of them say the same
_TURKISH_LETTERS: Final = frozenset("ığşİĞŞ")
_TURKISH_WORDS: Final = """
    ve bir bu ne mi mu icin ile nedir nasil neden kac hangi kim nerede ver yaz var yok cok ama gibi olan olarak
    daha en su bana benim sen ben biz merhaba selam tesekkurler lutfen yap acikla ozetle cevir listele hesapla
    coz hiz iyi tamam evet hayir degil sonra once metni soru cumleyi"""
_ENGLISH_WORDS: Final = """
    the a an of to and is are was in on for with what how why which who when where do does can you i my this
    that it write explain hello hi thanks please give list solve prove from by or not if your me be at as have
    has"""
_TURKISH: Final = frozenset(_TURKISH_WORDS.split())
_ENGLISH: Final = frozenset(_ENGLISH_WORDS.split())


def work_of(cues: Counter[Cue], *, is_small_talk: bool, is_maths: bool, has_code: bool) -> Work:
    """The kind's name; `is_maths` and `has_code` are what signs beside words told."""
    if is_small_talk:
        return Work.SMALL_TALK
    if has_code:
        return Work.CODE
    if is_maths and not any(cues[each] for each in (*TEXT_WORK, Cue.CODE)):
        return Work.REASONING
    return next((work for cue, work in _NAMED if cues[cue]), Work.QUESTION)


def language_of(text: str, words: Sequence[str]) -> str:
    """`tr`, `en`, or nothing where neither's words are in it. `words` are small and without marks."""
    if not _TURKISH_LETTERS.isdisjoint(text[:1024]):
        return "tr"
    read = words[:_READ]
    turkish = sum(word in _TURKISH for word in read)
    english = sum(word in _ENGLISH for word in read)
    if turkish == english:
        return ""
    return "tr" if turkish > english else "en"

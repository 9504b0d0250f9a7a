"""Words that tell what a question asks for, in Turkish and English, as a keyboard without Turkish letters has them.

A cue is a whole word, a phrase, or, ending in `*`, how a word begins: Turkish puts its endings there. Beginnings have
four letters or more. Which cue weighs what is `difficulty`'s; a new language is added here and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Cue(StrEnum):
    """What a word or phrase gives away; the value is how reasons say it."""

    SMALL_TALK = "small talk"
    ASKS = "a question"
    LOOKUP = "a definition or a fact"
    REASONS = "reasons, a comparison or an explanation"
    PROOF = "a proof or steps"
    CODE = "code"
    MATHS = "mathematics"
    AMOUNTS = "amounts"
    SUMMARY = "a summary"
    EXTRACTION = "an extraction"
    CLASSIFICATION = "a classification"
    TRANSLATION = "a translation"
    REWRITING = "a text put in other words"
    RAG = "text made ready for retrieval"
    CREATIVE = "a text to be written"
    STRUCTURED = "structured output"
    CONDITION = "conditions and exceptions"


_CUES: Final[Mapping[Cue, str]] = {
    Cue.SMALL_TALK: """
        hi, hello, hey, thanks, thank you, good morning, good evening, good night, how are you, bye, goodbye, ok,
        okay, selam, selamlar, merhaba*, gunaydin, iyi gunler, iyi aksamlar, iyi geceler, nasilsin*, naber, ne haber,
        tesekkur*, sagol, sag ol, hosca kal, gorusuruz, tamam, peki, eyvallah, kolay gelsin, good afternoon, see you,
        how s it going, how is it going, hows it going, nice to meet you, cheers, thx, lol, haha*, i m bored, slm,
        nasil gidiyor, iyi misin*, ne yapiyorsun*, napiyorsun*, hayirli sabahlar, selamun aleykum, canim sikildi,
        canim sikiliyor""",
    Cue.ASKS: """
        what, who, whom, whose, when, where, which, can, could, is, are, was, were, do, does, did, will, would, should,
        tell me, ne, neler*, neyi, kim, kimdir, kimin, hangi*, nerede*, nereye, nasil, mi, mu, misin*, musun*, midir,
        mudur, var mi, anlat*, soyle*""",
    Cue.LOOKUP: """
        what is, what s, whats, who is, who was, when is, when was, where is, how many, how much, how tall, how far,
        how old, capital of, meaning of, definition of, define, stand for, speed limit, phone number,
        nedir, ne demek, ne zaman, nerededir, kimdir, kac, kacinci, kactir, ne kadar, anlami, tanimi, baskenti,
        hiz limiti, hiz siniri, telefon numarasi, numarasi kac, acilimi""",
    Cue.REASONS: """
        why, explain*, compar*, contrast*, differenc*, analy*, evaluat*, critici*, discuss*, justif*, trade off,
        trade offs, pros and cons, advantages, implication*, interpret*, infer*, argue*, strateg*, recommend*, diagnos*,
        neden, niye, nicin, acikla*, karsilastir*, kiyasla*, fark*, analiz*, degerlendir*, elestir*, tartis*,
        gerekce*, avantaj*, dezavantaj*, yorumla*, cikarim*, oner*, tavsiye*, strateji*, teshis*""",
    Cue.PROOF: """
        prove, proof, proofs, step by step, derive, derivation, deduce, show that, theorem*, lemma*, reason through,
        optimi*, troubleshoot*, root cause, plan for, design a, design an,
        ispat*, kanitla*, adim adim, turetiniz, ayrintili coz*, teorem*, optimize*, tasarla*, kok neden""",
    Cue.CODE: """
        python, javascript, typescript, golang, kotlin, sql, html, css, bash, regex, coding, compiler, debug*,
        refactor*, stack trace, traceback, unit test, unit tests, this code, the code, code that, code to, some code,
        code for, source code, c code, java code, rust code, a function that, a function to, write a function,
        write a class, write a script, write a query, write a program, programming, kubernetes, dockerfile, github,
        in rust, in java, in swift, in scala, in haskell, in php, in ruby, in perl, in lua, in matlab, in assembly,
        rust program*, java program*, c program*, go program*, swift program*, php script*, implement a, implement an,
        quicksort*, mergesort*, merge sort, bubble sort, heap sort, linked list*, binary tree*, binary search,
        red black tree*, hash table*, hash map*, recursive function*, rust ile, java ile, c ile, php ile, swift ile,
        error handling, exception handling, for loop, while loop, segmentation fault, endpoint*, react component*,
        react app, react hook*, in react, angular, go function*, async await, callback*, node js, nodejs, django,
        flask, fastapi, spring boot, docker*, git merge, git rebase, git commit, git push, reverse a string,
        parse a string, kodum, kodumda, kodumu, koddaki, bu fonksiyon, for dongusu, while dongusu, birim test*,
        ruby ile, c dilinde, java dilinde, rust dilinde, go dilinde, bagli liste*, ikili agac*, ikili arama, kod yaz*,
        bu kodu, su kodu, kodu yaz*, kodu acikla*, kodu duzelt*, kaynak kodu, python kodu, java kodu, kodla*, kodunu,
        kodlar*, fonksiyon yaz*, fonksiyonu, bir fonksiyon, algoritma*, yazilim*, programla*, program yaz*, betik*,
        derleyici*, sorgusu, veritaban*, hata ayikla*""",
    Cue.MATHS: """
        equation*, integral*, derivative*, matrix, matrices, probability, polynomial*, logarithm*, vector*, eigen*,
        calculus, algebra*, geometry, triangle, prime number, factorial, modulo, inequality, solve, calculate*,
        standard deviation, variance, denklem*, turev*, matris*, olasilik*, polinom*, logaritma*, vektor*, ucgen*,
        asal sayi*, faktoriyel*, esitsizlik*, hesapla*, coz, cozun, cozunuz, cozumle*, standart sapma, varyans""",
    Cue.AMOUNTS: """
        times, twice, half, third, quarter, percent, per, each, more than, less than, fewer, total, altogether, left,
        remaining, average, rate, ratio, double, triple, profit, discount, cost, costs, how many, how much,
        kati, yarisi, ucte, dortte, yuzde, tane, tanesi, toplam*, kalan*, ortalama*, oran*, indirim*, fazla, eksik,
        kar eder, maliyet*, kac, kaci, ne kadar""",
    Cue.SUMMARY: """
        summar*, tl dr, tldr, bullet points, key points, main points, sum up, shorten*, in short, in a nutshell,
        the gist of, condense*, a brief overview, kisalt, kisaltin, kisaltir, kisaltarak, ana noktalar*, ozet*,
        maddele*, ana fikir, ana fikri, kisaca anlat""",
    Cue.EXTRACTION: """
        extract*, keywords, list the, find all, pull out, pull the, get all, out of this text, from this text,
        from the text below, from this email, metindeki, metinden, metinde gecen, faturadaki, belgedeki,
        cikar, cikart, cikarin, cikartin, ayikla*, anahtar kelime*, listele*""",
    Cue.CLASSIFICATION: """
        classif*, categor*, sentiment, tag the, label the, spam, positive or negative, olumlu mu, olumsuz mu,
        duygu analiz*, siniflandir*, kategori*, etiketle*""",
    Cue.TRANSLATION: """
        translat*, cevir, cevirin, cevirir, ceviri*, cevirisi*, tercume*, how do you say, how do i say,
        turkish word for, english word for, in english please, in turkish please, into english, into turkish,
        into german, into french, into spanish, ingilizcesi*, turkcesi*, almancasi*, turkce ne demek,
        ingilizce ne demek, turkce karsiligi, ingilizce karsiligi""",
    Cue.REWRITING: """
        rewrite, rephrase*, paraphras*, proofread*, convert*, yeniden yaz*, duzelt*, duzenle*, donustur*""",
    Cue.RAG: """
        chunk*, embedding*, for retrieval, for indexing, search queries, vector store, split this text,
        split the text, split this document, parcalara bol*, parcalara ayir*, arama sorgular*, gomme vektor*,
        vektor veritaban*""",
    Cue.CREATIVE: """
        write, compose, draft, poem, story, essay, song, joke, slogan, letter, email, e mail, imagine, roleplay,
        yaz, yazar, yazin, yaziniz, siir*, hikaye*, oyku*, masal*, sarki*, fikra*, mektup*, eposta*, e posta,
        makale*, kompozisyon*, slogan*, brainstorm, beyin firtinasi""",
    Cue.STRUCTURED: """json, yaml, xml, csv, schema, markdown table, table with, semasi, semaya, tablo*, tablosu""",
    Cue.CONDITION: """
        not, if, only, every, most, least, must, both, neither, all, none, except, unless, without, never,
        incorrect, exactly, at most, at least, always, cannot,
        degil*, eger, yalniz*, sadece, hepsi, hicbir*, haric, olmadan, asla, yanlis, tam olarak, en az, en fazla,
        en cok, her biri, zorunda, mutlaka, kosul*, disinda""",
}
_BEGINNING: Final = 4  # letters that find the cues a word may begin with
_NONE: Final[Set[Cue]] = frozenset()


@dataclass(frozen=True, slots=True)
class _Index:
    """The cues by what finds them: a whole word, its first letters, or the first word of a phrase."""

    words: dict[str, set[Cue]] = field(default_factory=dict)
    beginnings: dict[str, list[tuple[str, Cue]]] = field(default_factory=dict)
    phrases: dict[str, list[tuple[str, Cue]]] = field(default_factory=dict)

    def add(self, listed: str, cue: Cue) -> None:
        entry = " ".join(listed.split())
        if " " in entry:
            searched = f" {entry[:-1]}" if entry.endswith("*") else f" {entry} "
            self.phrases.setdefault(entry.split()[0], []).append((searched, cue))
        elif entry.endswith("*"):
            self.beginnings.setdefault(entry[:_BEGINNING], []).append((entry[:-1], cue))
        else:
            self.words.setdefault(entry, set()).add(cue)


_INDEX: Final = _Index()
for _cue, _listed in _CUES.items():
    for _entry in _listed.split(","):
        _INDEX.add(_entry, _cue)


def count_cues(words: list[str]) -> Counter[Cue]:
    """How often each kind of cue occurs in `words`, small and without marks; a phrase counts once. Linear."""
    found: Counter[Cue] = Counter()
    joined = f" {' '.join(words)} "
    for word, times in Counter(words).items():
        cues = _INDEX.words.get(word, _NONE)
        if word[:_BEGINNING] in _INDEX.beginnings:
            begun = {cue for start, cue in _INDEX.beginnings[word[:_BEGINNING]] if word.startswith(start)}
            cues = cues | begun
        for cue in cues:
            found[cue] += times
        if word in _INDEX.phrases:
            found.update(cue for phrase, cue in _INDEX.phrases[word] if phrase in joined)
    return found

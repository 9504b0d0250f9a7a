"""Questions with known answers, from such as a very small model mostly gets right to such as it mostly gets wrong.

Written for this measurement, but for the sums in words: those are GSM8K's (MIT), where a recorded answer is known to be
right and so tells the number.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from pathlib import Path

from orchestrator.core.evaluation.grading import grade
from orchestrator.core.evaluation.questions import Question, Scorer

GSM8K = Path(__file__).resolve().parents[3] / "shared/routing-eval/dev.jsonl.gz"
SEED = 7
SUMS_IN_WORDS = 30

_CAPITALS = (
    "France Paris, Italy Rome, Germany Berlin, Spain Madrid, Portugal Lisbon, Austria Vienna, Greece Athens, "
    "Turkey Ankara, Egypt Cairo, Japan Tokyo, China Beijing, India Delhi, Russia Moscow, Poland Warsaw, Hungary "
    "Budapest, Norway Oslo, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland Dublin, Belgium Brussels, "
    "Cuba Havana, Peru Lima, Chile Santiago, Kenya Nairobi, Iran Tehran, Iraq Baghdad, Thailand Bangkok, "
    "Vietnam Hanoi, Bulgaria Sofia, Romania Bucharest, Serbia Belgrade, Croatia Zagreb, Ukraine Kyiv, Canada Ottawa, "
    "Australia Canberra, Senegal Dakar, Ghana Accra, Jordan Amman, Lebanon Beirut, Latvia Riga, Estonia Tallinn"
)
_OPPOSITES = (
    "hot cold, big small, up down, day night, black white, fast slow, happy sad, old young, rich poor, wet dry, "
    "open closed, full empty, left right, north south, early late, hard soft, light dark, high low, good bad, "
    "in out, long short, thick thin, strong weak, loud quiet, clean dirty, true false, first last, win lose"
)
_MADE_OF = (
    "What colour is the sky on a clear day?|blue;What colour is grass?|green;What colour is snow?|white;"
    "What colour is blood?|red;What colour is a ripe banana?|yellow;What colour is coal?|black;"
    "How many days are in a week?|7,seven;How many months are in a year?|12,twelve;How many legs has a spider?|8,eight;"
    "How many legs has a dog?|4,four;How many minutes are in an hour?|60,sixty;How many sides has a triangle?|3,three;"
    "How many hours are in a day?|24;How many sides has a hexagon?|6,six;How many wheels has a car?|4,four;"
    "Which planet do we live on?|earth;Which is the largest planet of the solar system?|jupiter;"
    "Which animal barks?|dog;Which animal says meow?|cat;Which gas do plants take in?|carbon dioxide;"
    "What is frozen water called?|ice;Who wrote Romeo and Juliet?|shakespeare;"
    "Who painted the Mona Lisa?|leonardo,vinci;"
    "What is the chemical symbol of water?|h2o,h₂o;What is the chemical symbol of gold?|au;"
    "In which year did the Second World War end?|1945;In which year did Columbus reach America?|1492;"
    "What is the longest river of Africa?|nile;What is the highest mountain on Earth?|everest;"
    "Which ocean is the largest?|pacific;Who was the first president of the United States?|washington;"
    "What is the currency of Japan?|yen;What language is spoken in Brazil?|portuguese;"
    "Türkiye'nin başkenti neresidir?|ankara;Bir haftada kaç gün vardır?|7,yedi;Kar hangi renktir?|beyaz;"
    "Bir yılda kaç ay vardır?|12,on iki;Fransa'nın başkenti neresidir?|paris;Üçgenin kaç kenarı vardır?|3,üç"
)
_FEELINGS = (
    "I loved this film.|positive;The food was awful.|negative;What a wonderful day!|positive;"
    "I hate waiting in line.|negative;The service was excellent.|positive;This is the worst phone I ever had.|negative;"
    "She was very kind and helpful.|positive;The room was dirty and cold.|negative;Great value for the price.|positive;"
    "It broke after one day.|negative;I am delighted with my new bike.|positive;The book was boring.|negative;"
    "Best concert of my life.|positive;I want my money back.|negative;The staff were friendly.|positive;"
    "A terrible waste of time.|negative;I recommend it to everybody.|positive;The flight was late again.|negative;"
    "The soup tasted like dishwater.|negative;My daughter adores this toy.|positive;Never again.|negative;"
    "It exceeded all my hopes.|positive;The screen is cracked and nobody cares.|negative;Simply perfect.|positive"
)
_PLURALS = (
    "cat cats, dog dogs, box boxes, child children, mouse mice, foot feet, man men, woman women, tooth teeth, city "
    "cities, baby babies, leaf leaves, knife knives, bus buses, book books, tree trees, goose geese, person people, "
    "wife wives, dish dishes, key keys, party parties, potato potatoes, sheep sheep, ox oxen, apple apples"
)
_PASTS = (
    "go went, eat ate, see saw, run ran, take took, give gave, come came, write wrote, drink drank, sing sang, buy "
    "bought, think thought, bring brought, walk walked, play played, swim swam, fly flew, know knew, speak spoke, "
    "break broke, make made, sleep slept, find found, win won, teach taught, catch caught, sit sat, open opened"
)
_TURKISH_WORDS = (
    "su water, ev house, kitap book, kedi cat, köpek dog, elma apple, ekmek bread, süt milk, güneş sun, ay moon, "
    "okul school, anne mother, baba father, deniz sea, kuş bird, balık fish, ağaç tree, araba car, masa table, "
    "kapı door"
)
_KINDS_OF_THINGS = (
    "dog animal, rose plant, cat animal, oak plant, horse animal, tulip plant, lion animal, grass plant, fish animal, "
    "cow animal, fern plant, eagle animal, cactus plant, sheep animal, pine plant, frog animal, bamboo plant, "
    "bee animal"
)
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def questions() -> list[Question]:
    """All of them, always the same."""
    rng = random.Random(SEED)
    told = [*_sums(rng), *_products(rng), *_larger(rng), *_capitals(), *_opposites(), *_facts(), *_feelings(), *_days()]
    told += [*_months(), *_odd_or_even(rng), *_pairs("plural", _PLURALS, 'What is the plural of "{}"?')]
    told += _pairs("past", _PASTS, 'What is the past tense of "{}"?')
    told += _pairs("turkish", _TURKISH_WORDS, 'What does the Turkish word "{}" mean in English?')
    told += _pairs("living", _KINDS_OF_THINGS, "Is a {} an animal or a plant?")
    return [*told, *_sums_in_words()]


def kind_of(question: Question) -> str:
    return question.id.partition("-")[0]


def _sums(rng: random.Random) -> Iterator[Question]:
    for n in range(140):
        most = 9 if n < 70 else 99
        a, b = rng.randint(1, most), rng.randint(1, most)
        yield _numeric(f"sum-{n}", f"What is {a} + {b}? Answer with the number only.", a + b)


def _products(rng: random.Random) -> Iterator[Question]:
    for n in range(40):
        a, b = rng.randint(2, 9), rng.randint(2, 12)
        yield _numeric(f"product-{n}", f"What is {a} times {b}? Answer with the number only.", a * b)


def _larger(rng: random.Random) -> Iterator[Question]:
    for n in range(60):
        a, b = rng.sample(range(1, 1000 if n % 2 else 20), 2)
        yield _numeric(f"larger-{n}", f"Which number is larger, {a} or {b}? Answer with the number only.", max(a, b))


def _capitals() -> Iterator[Question]:
    yield from _pairs("capital", _CAPITALS, "What is the capital of {}?")


def _opposites() -> Iterator[Question]:
    yield from _pairs("opposite", _OPPOSITES, 'What is the opposite of "{}"?')


def _pairs(kind: str, pairs: str, asked: str) -> Iterator[Question]:
    for each in pairs.split(", "):
        of, answer = each.split()
        yield _contains(f"{kind}-{of}", f"{asked.format(of)} Answer with one word.", answer)


def _facts() -> Iterator[Question]:
    for n, each in enumerate(_MADE_OF.split(";")):
        text, answers = each.split("|")
        any_of = "|".join(answers.split(","))
        yield Question(f"fact-{n}", f"{text} Answer in a few words.", Scorer.REGEX, (rf"(?i)\b(?:{any_of})\b",))


def _feelings() -> Iterator[Question]:
    for n, each in enumerate(_FEELINGS.split(";")):
        text, feeling = each.split("|")
        yield _contains(f"feeling-{n}", f'Is this review positive or negative? "{text}" Answer with one word.', feeling)


def _days() -> Iterator[Question]:
    for n, day in enumerate(_DAYS):
        yield _contains(f"day-{n}", f"Which day comes after {day}? Answer with one word.", _DAYS[(n + 1) % 7])
        yield _contains(f"day-{n + 7}", f"Which day comes before {day}? Answer with one word.", _DAYS[n - 1])


def _months() -> Iterator[Question]:
    for n, month in enumerate(_MONTHS):
        yield _contains(f"month-{n}", f"Which month comes after {month}? Answer with one word.", _MONTHS[(n + 1) % 12])


def _odd_or_even(rng: random.Random) -> Iterator[Question]:
    for n, number in enumerate(rng.sample(range(1, 100), 40)):
        answer = "odd" if number % 2 else "even"
        yield _contains(f"parity-{n}", f"Is {number} an odd or an even number? Answer with one word.", answer)


def _sums_in_words() -> Iterator[Question]:
    if not GSM8K.is_file():
        return
    found = 0
    with gzip.open(GSM8K, "rt") as file:
        for row in map(json.loads, file):
            if row["benchmark"] != "gsm8k" or row["weak"] != 1 or "####" not in row["weak_answer"]:
                continue
            asked = Question(row["id"], row["prompt"], Scorer.NUMERIC, (row["weak_answer"].rpartition("####")[2],))
            if found < SUMS_IN_WORDS and grade(asked, asked.answer[0]):
                found += 1
                yield asked


def _numeric(name: str, prompt: str, answer: int) -> Question:
    return Question(name, prompt, Scorer.NUMERIC, (str(answer),))


def _contains(name: str, prompt: str, answer: str) -> Question:
    return Question(name, prompt, Scorer.REGEX, (rf"(?i)\b{answer}\b",))

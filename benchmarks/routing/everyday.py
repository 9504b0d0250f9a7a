"""Everyday questions in Turkish and English, written for this project (Apache-2.0): easy or hard for a small model.

A guard, not a benchmark: weights learnt on examinations must not make the order of everyday questions worse.
`python benchmarks/routing/everyday.py` prints the share of (easy, hard) pairs that the product puts in the right order.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from orchestrator.core.dialects.parse import Turn  # noqa: E402
from orchestrator.core.difficulty import score  # noqa: E402

EASY = {
    "tr": (
        "Merhaba, nasılsın?",
        "Türkiye'nin başkenti neresi?",
        "Bir yılda kaç hafta var?",
        "şehir içi hız limiti",
        "Fotosentez nedir?",
        "Günaydın, bugün ne yapalım?",
        "'Kolay gelsin' İngilizceye nasıl çevrilir?",
        "Şu cümleyi düzelt: dün okula gitdim",
        "Bana kısa bir doğum günü mesajı yaz",
        "İstanbul'un nüfusu ne kadar?",
        "Kedim için isim öner",
        "Yarım kilo kaç gram eder?",
        "Atatürk ne zaman doğdu?",
        "Bu e-postayı iki cümlede özetle: Toplantı salı gününe alındı, yer aynı, katılım zorunlu.",
        "Makarna nasıl haşlanır?",
        "Teşekkür ederim, çok yardımcı oldun",
        "Elma, armut ve kirazı alfabetik sırala",
        "HTML nedir?",
        "Şu metindeki telefon numarasını çıkar: Ali'yi 0532 000 00 00'dan arayın",
        "Bugün çok yorgunum",
    ),
    "en": (
        "Hi there!",
        "What is the capital of Japan?",
        "How many days are in a leap year?",
        "Define photosynthesis",
        "Who wrote Hamlet?",
        "Translate 'thank you' to Spanish",
        "Give me a name for my dog",
        "What does HTTP stand for?",
        "Write a short birthday wish for my sister",
        "Fix the spelling: I recieved teh letter",
        "Is a tomato a fruit?",
        "When is Mother's Day?",
        "Summarize in one sentence: The meeting moved to Tuesday, same room, everyone must come.",
        "What's the opposite of hot?",
        "How do I boil an egg?",
        "Thanks, that helped a lot",
        "Extract the email address: write to ann@example.org for details",
        "Classify as positive or negative: I love this phone",
        "Tell me a joke",
        "List the colours of the rainbow",
    ),
}
HARD = {
    "tr": (
        "Sonsuz çoklukta asal sayı olduğunu adım adım ispatla",
        "Aynı anda yazan iki kullanıcı için iyimser kilitleme yapan bir Python fonksiyonu yaz ve testlerini ekle",
        "x^3 - 6x^2 + 11x - 6 = 0 denklemini çöz ve köklerin neden gerçel olduğunu açıkla",
        "Bir banka için mimari tasarla; para transferinde tutarlılığı nasıl sağlarsın, neden ödün verirsin?",
        "Ayşe'nin 3 katı kadar cevizi olan Ali cevizlerinin yarısını satar, kalanın üçte birini verir ve "
        "12 cevizi kalır. Başta ikisinin toplam kaç cevizi vardı?",
        "Kira sözleşmesi yenilenmeyen ama oturmaya devam eden, kirayı da geç ödeyen bir kiracının hangi hakları vardır "
        "ve ev sahibi hangi koşulda tahliye davası açabilir?",
        "Bu SQL sorgusu neden yavaş, nasıl iyileştirirsin: SELECT * FROM siparis s JOIN musteri m ON m.id = "
        "s.musteri_id WHERE lower(m.ad) LIKE '%ali%' ORDER BY s.tarih",
        "Enflasyon düşerken işsizliğin artması hangi iktisat kuramlarıyla açıklanır, karşılaştır ve eleştir",
        "Kubernetes'te bellek yetmeyip yeniden başlayan bir pod'un kök nedenini nasıl bulursun, adım adım anlat",
        "Bir çiftlikte tavuk ve koyunların toplam 35 başı, 94 ayağı var. Her hayvandan kaçar tane vardır?",
        "Osmanlı'da tımar sisteminin bozulmasının askeri ve mali sonuçlarını değerlendir",
        "İki farklı ilaç kullanan, böbrek yetmezliği olan hastada dozu hangi ölçütlere göre ayarlarsın, gerekçelendir",
        "Büyük bir dosyayı belleğe almadan satır satır sıralayan bir algoritma yaz ve karmaşıklığını kanıtla",
        "Kuantum dolanıklığın neden ışıktan hızlı haberleşmeye izin vermediğini açıkla",
        "Üç yıllık nakit akışları 100, 120 ve 150 ve iskonto oranı yüzde 12 olan yatırımın bugünkü değerini hesapla",
    ),
    "en": (
        "Prove that the square root of 3 is irrational",
        "Write a thread-safe LRU cache in Go with per-entry expiry and explain how you avoid lock contention",
        "Find the integral of x^2 * e^x and show each step",
        "Design a rate limiter that is exact across several data centres; what do you give up and why?",
        "A train leaves at 9 am at 60 mph and another at 10 am at 80 mph on the same track; when does the second catch "
        "up, if each stops for 15 minutes every hour?",
        "Compare optimistic and pessimistic locking and argue which suits a booking system with frequent conflicts",
        "My asyncio service leaks memory after every cancelled request; how would you find the root cause?",
        "Explain why P versus NP matters for cryptography, and what would still be safe if P equals NP",
        "If a contract is signed under duress but later ratified by conduct, may the other party still rescind it "
        "unless it has relied on it?",
        "Refactor this code to avoid the race: ```if not os.path.exists(p): os.mkdir(p)```",
        "Sam has twice as many coins as Ann, gives a third of them away, and then has 6 more than Ann. How many coins "
        "did they have in total?",
        "Discuss how monetary policy transmits to unemployment, and where the evidence contradicts the theory",
        "Derive the maximum likelihood estimator of the variance and show that it is biased",
        "Diagnose: fever, rash and joint pain two weeks after antibiotics; what must be excluded first and why?",
        "Calculate the probability that at least two of 23 people share a birthday",
    ),
}


def ordered(points: dict[str, float], language: str) -> float:
    """Share of pairs of an easy and a hard question whose points are in the right order; equal ones count half."""
    easy, hard = EASY[language], HARD[language]
    right = sum((points[high] > points[low]) + 0.5 * (points[high] == points[low]) for low in easy for high in hard)
    return right / (len(easy) * len(hard))


def report() -> dict[str, dict[str, float]]:
    """By language: pairs in order, easy questions below level 5, hard ones from level 5 on."""
    told = {}
    for language in EASY:
        asked = (*EASY[language], *HARD[language])
        judged = {each: score((Turn("user", each),)) for each in asked}
        told[language] = {
            "ordered": ordered({each: found.points for each, found in judged.items()}, language),
            "easy_below_5": sum(judged[each].level < 5 for each in EASY[language]) / len(EASY[language]),
            "hard_from_5": sum(judged[each].level >= 5 for each in HARD[language]) / len(HARD[language]),
        }
    return told


if __name__ == "__main__":
    for language, told in report().items():
        print(language, " ".join(f"{name} {value:.3f}" for name, value in told.items()))

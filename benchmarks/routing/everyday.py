"""Everyday questions in Turkish and English, written for this project (Apache-2.0): easy or hard for a small model.

A guard, not a benchmark: weights learnt on examinations must not make the order of everyday questions worse.
`python benchmarks/routing/everyday.py` prints the share of (easy, hard) pairs that the product puts in the right order,
and of questions of every kind of work those whose kind it tells.
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

# What people ask, by the kind of work it is.
KINDS = {
    "code": (
        "Why does my for loop run forever?",
        "Add error handling to this endpoint",
        "C++ ile bubble sort yaz",
        "Kodumda hata var, bulur musun?",
        "Bu fonksiyon ne yapıyor: def f(x): return x*2",
        "create a React component for a login form",
        "Write a Dockerfile for a Flask app",
        "bash komutu: klasördeki dosyaları say",
        "how do I reverse a string in C#",
        "Bir web sitesi için HTML sayfası yap",
        "git merge conflict nasıl çözülür",
        "Write a Go function that reads a CSV file",
        "My Java program throws a NullPointerException, help",
        "How can I sort a dictionary by value in Python?",
        "Bu SQL sorgusunu hızlandır",
        "JavaScript'te dizi nasıl filtrelenir?",
        "Convert this callback to async/await",
        "Python ile dosya okuyan bir betik yaz",
        "Explain what this code does: print(sum(range(10)))",
        "Write unit tests for the login class",
        "Typescript arayüzü nasıl tanımlanır?",
    ),
    "reasoning": (
        "If all bloops are razzies and all razzies are lazzies, are all bloops lazzies?",
        "A train leaves at 3pm at 60 km/h, another at 4pm at 80 km/h. When do they meet?",
        "What is the derivative of sin(x)?",
        "2x+3=11 ise x kaçtır?",
        "Ali 5 yaşında, babası 6 katı. 4 yıl sonra?",
        "Which is heavier, a kilo of feathers or a kilo of iron, and why?",
        "Solve for x: 3x - 7 = 11",
        "Prove that the sum of two even numbers is even",
        "Bir işi 3 işçi 12 günde bitirirse 4 işçi kaç günde bitirir?",
        "What is the probability of rolling two sixes?",
        "Why does ice float on water?",
        "1'den 100'e kadar olan sayıların toplamını hesapla",
    ),
    "extraction": (
        "Pull the dates out of this text: met on 3 May",
        "Bu metindeki tarihleri bul: 3 Mayıs",
        "Get all email addresses from the following",
        "Return the invoice number as JSON: INV-12",
        "Extract all phone numbers from this message: call 555-1234",
        "List the people mentioned in the paragraph below",
        "Şu metindeki şehir adlarını çıkar: Ankara ve İzmir",
        "Fatura tutarını ve tarihini JSON olarak ver",
        "Find all company names in the following article",
        "Metinde geçen kişileri listele",
    ),
    "summary": (
        "TL;DR this article: ...",
        "Bu makaleyi kısalt",
        "Give me the gist of this: ...",
        "Give me a brief overview of the text below",
        "Toplantı notlarının özetini çıkar",
        "Summarise the following paragraph in two sentences",
        "Bu haberi üç maddede özetle",
        "Sum up this conversation",
        "What are the key points of this report?",
        "Aşağıdaki yazıyı kısaca anlat",
        "Shorten this text to 50 words",
    ),
    "classification": (
        "Is this email spam or not: win money",
        "Bu yorum olumlu mu olumsuz mu: harika",
        "Label the sentiment of: meh",
        "Which category does this ticket belong to: billing, tech? 'my card was charged'",
        "Bu bileti kategorize et",
        "Classify this email as urgent or not",
        "Is the following review positive or negative?",
        "Bu mesaj şikayet mi övgü mü, sınıflandır",
        "Tag the ticket with one of: bug, feature",
        "Şu cümlenin duygu analizini yap",
        "Categorise these products",
    ),
    "translation": (
        "How do you say 'thank you' in German?",
        "'Good morning' Türkçe ne demek?",
        "İngilizceye çevir: bugün hava güzel",
        "In Turkish please: I am late",
        "Traduce al español: hello",
        "Translate to English: yarın görüşürüz",
        "Bu cümleyi Almancaya çevir",
        "What is the Turkish word for 'apple'?",
        "Şunu İngilizceye tercüme et",
        "Can you put this in French: good luck",
        "İngilizce çevirisini yaz: geldim",
    ),
    "rag": (
        "Chunk this document for embedding",
        "Generate search queries for this question",
        "Bu belgeyi arama için parçalara böl",
        "Create metadata and keywords for indexing this passage",
        "Split the text into chunks of 200 words for retrieval",
        "Create embeddings-friendly passages from this page",
        "Bu dokümanı vektör veritabanı için parçalara böl",
        "Prepare this manual for a vector store",
        "Write three search queries that would find this passage",
        "Metni gömme için bölümlere ayır",
    ),
    "creative": (
        "Write a poem about autumn",
        "Tell me a bedtime story",
        "Bana kısa bir hikaye anlat",
        "Write an email to my boss asking for leave",
        "Müdürüme izin isteyen bir e-posta yaz",
        "Slogan öner",
        "Compose a haiku",
        "Write a short story about a dragon",
        "Anneme doğum günü mesajı yaz",
        "Draft a letter to my landlord",
        "Sonbahar hakkında bir şarkı sözü yaz",
        "Come up with a slogan for a bakery",
        "Imagine you are a pirate",
        "Bir fıkra anlat",
        "Patronuma resmi bir e-posta hazırla",
    ),
    "small talk": (
        "hey",
        "how's it going?",
        "good night",
        "selam nasılsın",
        "iyi akşamlar",
        "what's up",
        "nasıl gidiyor",
        "thanks a lot!",
        "canım sıkıldı",
        "lol",
        "👋",
        "Hello!",
        "Good morning, how are you?",
        "thank you so much",
        "Merhaba",
        "teşekkür ederim",
        "görüşürüz",
        "bye bye",
        "selamün aleyküm",
        "nasılsın bugün?",
        "hi there friend",
    ),
    "question": (
        "Who painted the Mona Lisa?",
        "En yüksek dağ hangisi?",
        "what time is it in Tokyo",
        "Bursa hangi bölgede?",
        "Who won the 2018 world cup?",
        "Who is the president of Turkey?",
        "Dünyanın en uzun nehri hangisi?",
        "When did World War II end?",
        "Pasaportun süresi kaç yıl?",
        "How tall is Mount Everest?",
        "Ankara'nın plaka kodu kaç?",
        "Which planet is the largest?",
        "What's the boiling point of water?",
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


def mistaken() -> dict[str, str]:
    """What is taken for another kind of work than it is: the questions, and for what."""
    told = {each: score((Turn("user", each),)).work for asked in KINDS.values() for each in asked}
    return {each: told[each] for work, asked in KINDS.items() for each in asked if told[each] != work}


if __name__ == "__main__":
    for language, told in report().items():
        print(language, " ".join(f"{name} {value:.3f}" for name, value in told.items()))
    wrong = mistaken()
    print(
        f"kinds {1 - len(wrong) / sum(map(len, KINDS.values())):.3f}",
        *(f"{why}: {each}" for each, why in wrong.items()),
    )

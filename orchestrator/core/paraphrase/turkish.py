"""Turkish words of questions. How the tables are read is `words`'."""

from __future__ import annotations

from typing import Final

from orchestrator.core.paraphrase.words import lexicon

TURKISH: Final = lexicon(
    exact="""
-: merhaba selam selamlar lutfen acaba peki bana bize sana size ben benim bizim sizin siz biz bu su o icin ile ve veya
-: de da ki ise ya hem olarak tarafindan gore hakkinda dair var vardir hocam diye yani tesekkurler istiyorum isterim
?how: nasil nasildir
?what: ne nedir neler nelerdir neyi nesi neyin neresi neresidir
?which: hangi hangisi hangisidir hangileri hangileridir
?count: kac
?value: kactir kaci
?when: kacta kacinda kaca kactan
free: ucretsiz bedava parasiz
?where: nerede nerededir nereden nerden nerde
?whereto: nereye
?who: kim kimdir kimler kimlerdir kimin kime kimi
?why: neden niye nicin
?yesno: mi mu midir mudur miyim muyum miyiz muyuz misin misiniz musunuz
!: degil degildir yok yoktur hayir asla hic hicbir haric
.max: azami maksimum
.now: simdi guncel
.exactly: tam aslinda genelde normalde
.law: yasal
min: asgari minimum
email: mail eposta email
wifi: kablosuz wifi wlan
hungry: ac
emergency: acil acilin acile acilde
month10: ekim
#2: iki ikinci
#3: uc ucuncu
#4: dort dorduncu
#5: bes besinci
#6: alti altinci
#7: yedi yedinci
#8: sekiz sekizinci
#9: dokuz dokuzuncu
#10: on onuncu
#20: yirmi
#30: otuz
#40: kirk
#50: elli
#60: altmis
#70: yetmis
#80: seksen
#90: doksan
#100: yuz
#1000: bin
#1: birinci ilk
#one: bir
month: ay ayin ayda aylar aydan aydir aya ayi
il: il ilin ilde iller ilden
ag: ag aga agi agin agda agdan aglar agina agini aginda agimiz
su: su suyu suyun suda sudan suya
is: is isi isin isten
ev: ev evde evden eve evin evi evler
ad: ad adi adim adin
in: ic icinde icindeki icerisinde ici icine icindeyken
aci ayni agir isim ilan alan
""",
    roots="""
-say: soyle ogren anlat merak
-do: yap et ed ol bulun gerceklestir yaptir
~need: gerek lazim zorunlu zorunda sart mecbur
~may: mumkun izinli
.place: yer taraf
.right: hak hakk
.turkey: turkiye ulkemiz
limit: limit sinir sinirlama
speed: hiz
ehliyet: ehliyet
otoyol: otoyol otoban
otomobil: otomobil araba
sehir: sehir
out: dis disinda
kez: kez kere defa sefer
year: yil sene
yillik: yillik senelik
week: hafta
day: gun
hour: saat
minute: dakika
second: saniye
degree: derece
km: km kilometre
m: m metre
cm: cm santimetre santim
mm: mm milimetre
inch: inc
mile: mil
kg: kg kilogram kilo
g: gr gram
mg: mg miligram
pound: libre pound
hectare: hektar
donum: donum
litre: litre
tl: tl lira
bit: bit
byte: bayt byte
promil: promil
percent: yuzde
kmh: kmh
price: fiyat
fee: ucret
fine: ceza
number: numara
age: yas
duration: sure sur
temperature: sicaklik
point: nokta
password: sifre parola
sifirla: sifirla
unut: unut
doctor: doktor hekim
patient: hasta
gebe: hamile gebe hamilelik gebelik
teacher: ogretmen
student: ogrenci
parent: veli
child: cocuk
sinav: sinav imtihan
belge: belge evrak
kayit: kayit kayd kaydol
basvur: basvur basvuru
devamsizlik: devamsizlik
yariyil: yariyil somestr
rezervasyon: rezervasyon
oda salon
close: kapat kapan kapali
open: ac acik
publish: acikla
start: basla
end: bit
add: ekle
remove: sil kaldir
iptal: iptal
iade: iade
izin: izin izn
al: al
ver: ver
ic2: icmek icil iciyor icer icme icebil
kitap: kitap kitab
siparis: siparis
forbid: yasak
allow: serbest
tok: tok
node: dugum node
pool: havuz pool
cache: onbellek cache
cluster: kume
mon: pazartesi
tue: sali
wed: carsamba
thu: persembe
fri: cuma
sat: cumartesi
sun: pazar
summer: yaz
winter: kis
autumn: sonbahar guz
spring: ilkbahar
today: bugun
tomorrow: yarin
yesterday: dun
month1: ocak
month2: subat
month3: mart
month4: nisan
month5: mayis
month6: haziran
month7: temmuz
month8: agustos
month9: eylul
month11: kasim
month12: aralik
small: kucuk
big: buyuk
new: yeni
old: eski
under: altinda
over: ustunde uzerinde
before: once
after: sonra
git: git gid
gir: gir giris
cik: cik cikis
don: don donus
kur: kur kurul kurulum
baglan: baglan baglanti
cevap: cevap cevab yanit
sorun: sorun problem
foto: fotograf resim
bilgisayar: bilgisayar pc
yazici: yazici printer
odeme: odeme ode
telefon: telefon tel
calis: calis mesai
hastane: hastane
ogle: ogle oglen
kisi: kisi
duzelt: duzelt
indirim secim olum yatirim verim bilim yayin egitim uretim durum oturum yorum tutar calisan tarih adres hesap hesab aci
lose: kaybol kaybet
gel cikar tak gec iz kes yat bul gor kullan sat satin degistir degis kart kimlik fatura kargo
urun yol kan kanun not isik dil dis ses kod sor gonder bak masa maden sinema namaz model resmi
hiz say goz tren ders okul para masraf
""",
    phrases="""
?when: ne zaman, hangi day, hangi tarih, hangi tarihte, hour kacta, hour kac, month kacinda, hangi hour
?long duration: ne kadar duration, ne kadar zaman duration
?when: ne zamana kadar
?much: ne kadar
?much .price: kac para, kac lira, kac tl
?where: ?where bul, ?where bulunur, ne tarafta, hangi tarafta
?what: ne demek, ne demektir, ne anlama gel, ne anlama geliyor, ne anlama gelir
?how: ne yapmaliyim, ne yapmali, ne yapacagim, ne yapabilirim, ne yapmam, ne yapayim, ne yapilir
.max: en fazla, en cok
min: en az
.now: su an, su anda
-: iyi gunler, iyi aksamlar, kolay gelsin, -say ?yesno, bilgi ver ?yesno, bilgi alabilir ?yesno
-: bilmek istiyorum, bilgi almak, bilgi al, rica etsem, yardimci olur musunuz, bir sorum var
urban: sehir in, yerlesim .place in, yerlesim .place
rural: sehir out, yerlesim .place out
toplantiodasi: toplanti salon, toplanti oda
intercity: sehir arasi, sehirlerarasi
ehliyet: surucu belge
email: e posta, e mail
wifi: wi fi
weekend: week sonu, week son, week sonlari, week sonunda
weekday: week in
kimlik: nufus cuzdan, kimlik kart
""",
)

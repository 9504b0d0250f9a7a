"""English words of questions. How the tables are read is `words`'."""

from __future__ import annotations

from typing import Final

from orchestrator.core.paraphrase.words import lexicon

ENGLISH: Final = lexicon(
    exact="""
-: the of in at by with my your our his her their this that these those there here it its i me we us you they them
-: please hi hello hey thanks and or be been being is are am was were do does did done has have had will would shall
-: during into onto some any altogether together mean means meaning so about as if then ok okay for per each
-: every to from on
?how: how
?what: what
?which: which
?when: when
?where: where
?who: who whom whose
?why: why
!: not never no without cannot nor neither none nobody nothing except
~need: must should need needs needed required necessary obliged compulsory mandatory
~may: can may could might allowed possible permitted able
.now: now currently
.exactly: exactly actually really generally normally usually just
.max: maximum max
min: minimum min
off out
forbid: forbidden prohibited banned
wifi: wifi wlan wireless
second: seconds
mg: mg
kg: kg
g: g
cm: cm
mm: mm
km: km
m: m
#2: two
#3: three
#4: four
#5: five
#6: six
#7: seven
#8: eight
#9: nine
#10: ten
#11: eleven
#12: twelve
#20: twenty
#30: thirty
#40: forty
#50: fifty
#60: sixty
#70: seventy
#80: eighty
#90: ninety
#100: hundred
#1000: thousand
#1: first
#2: second
#3: third
#one: one a an
""",
    roots="""
login: login logon
logout: logout logoff
email: email mail
phone: phone telephone
doctor: doctor physician
child: child children kid
student: student pupil
teacher parent employee employer patient manager
car: car automobile
town: town city urban
turkey: turkey turkish turkiye
motorway: motorway freeway
price: price cost
fee: fee charge
remove: remove delete erase
start: start begin
end: end finish
buy: buy purchase bought
enrol: enrol enroll register
book: book schedule
enable: enable activate
disable: disable deactivate
boiling: boiling
freezing: freezing
inch: inch inches
cm: centimetre centimeter
mm: millimetre millimeter
m: metre meter
km: kilometre kilometer
foot: foot feet
mg: milligram
g: gram
kg: kilogram
litre: litre liter
mib: mib mebibyte
gib: gib gibibyte
use: use uses used using
appointment: appointment
salary: salary wage
ship: ship deliver
library: library
center: centre center
colour: colour color
programme: programme program
organise: organise organize
licence: licence license
contact: contact reach
fix: fix repair solve resolve
big: big large
fast: fast quick
close: close shut
photo: photo photograph picture
parcel: parcel package
bill: bill invoice
vaccine: vaccine vaccination
medicine: medicine medication
film: film movie
lift: lift elevator
flat: flat apartment
restart: restart reboot
change: change modify
see: view
obtain: obtain receive
person: person people
day: day daily
week: week weekly
month: month monthly
year: year yearly
cancel: cancel cancellation
apply: apply
pay: payment
install: install installation
ship: shipment delivery shipping
renew: renew renewal
connect: connect connection
reserve: reserve reservation
complain: complain complaint
approve: approve approval
arrive: arrive arrival
depart: depart departure
enrol: enrolment enrollment registration
temperature speed size height weight length
take: take taken took
.get: get got gotten
pay: pay paid
keep: keep kept
lose: lose lost
forget: forget forgot forgotten
see: see seen saw
go: go went gone
drive: drive driven drove
find: find found
make: make made
write: write wrote written
choose: choose chose chosen
send: send sent
mon: monday
tue: tuesday
wed: wednesday
thu: thursday
fri: friday
sat: saturday
sun: sunday
month1: january
month2: february
month3: march
month4: april
month6: june
month7: july
month8: august
month9: september
month10: october
month11: november
month12: december
""",
    phrases="""
?count: how many
?much .price: how much
?long: how long
?often: how often
?far: how far
?what size: how big, how large
?what height: how tall, how high
?what weight: how heavy
?what: what do you call
?where: where can i find, where do i find, where will i find, where could i find
?how: what do i do to, what must i do to, what should i do to, what do i have to do to
?how: what do i need to do to, what can i do to
free: free of charge, for free
?what age: how old
?why: how come
?when: what time, what day, what date, which day, which date
-: can you tell me, could you tell me, could you please tell me, tell me, i would like to know, i like to know
-: i want to know, do you know, i wonder, i was wondering, would you know, i need to know, i want to
-: i would like to, i like to, i am trying to, i trying to, i have a question
-: can you help me, could you help me, do you happen to know
~need: have to, has to, had to
login: log in, sign in, log on, sign on
logout: log out, sign out, log off, sign off
disable: turn off, switch off
enable: turn on, switch on
setup: set up
book appointment: make an appointment, make appointments, make my appointment, make the appointment, make appointment
email: e mail
wifi: wi fi
helpdesk: help desk
town: built up area
?yesno: can you, could you
rural: out of town, out of towns, outside town
2fa: two factor authentication, two factor
""",
)

"""Openings that refuse or do not know, and openings that only sound like it."""

from __future__ import annotations

import pytest

from orchestrator.core.refusal import refuses

REFUSALS = """
I'm sorry, but I can't help with that.
I’m sorry, but I can’t assist with that request.
I am sorry, I cannot answer this question.
Sorry, I can't do that.
I apologize, but I am unable to provide that information.
Unfortunately, I don't have access to real-time data.
Unfortunately I cannot browse the internet.
I cannot provide medical advice.
I can't fulfill this request.
I do not know the answer to that.
I don't know.
I don't have enough information to answer.
I'm not sure what you mean.
I am not able to access external websites.
I'm unable to help with that.
As an AI language model, I do not have feelings.
As a large language model I cannot do that.
I'm just an AI and have no opinion.
I have no information about this person.
I have no idea.
I must respectfully decline to answer.
I won't help with that.
I lack the context to answer.
There is not enough information to answer the question.
  **I cannot** help with that.
Üzgünüm, bu konuda yardımcı olamam.
Üzgünüm, bu soruyu yanıtlayamıyorum.
Maalesef bu bilgiye erişimim yok.
Maalesef bu isteği yerine getiremem.
Ne yazık ki bu konuda bilgim yok.
Özür dilerim, bunu yapamam.
Bilmiyorum.
Bu konuda bilgim yok.
Bu konuda yeterli bilgiye sahip değilim.
Bu konuda emin değilim.
Bu soruya cevap veremem.
Bu isteği yerine getiremiyorum.
Bir yapay zeka dil modeli olarak duygularım yok.
Yapay zeka modeli olarak buna cevap veremem.
Size bu konuda yardımcı olamam.
Uzgunum, bu soruyu yanitlayamam.
Kesin olarak bilmiyorum.
"""

ANSWERS = """
Paris.
I'm sorry to hear that you feel unwell. Try to rest.
Sorry for the late reply; the meeting is at three.
I can help with that. First, open the settings.
I know this song: it is by Queen.
I don't think so: the capital of Australia is Canberra.
I do believe it is correct.
As an example, take the number 7.
As an airline passenger you have rights.
You cannot divide by zero.
The function can't return None here.
Not every bird can fly.
There is not one answer: both are right.
No, the Earth is not flat.
It is not possible to divide by zero, so the sum has no value.
Unfortunately, the store is closed on Sundays.
The model cannot be loaded: there is too little memory.
I have no objection: the plan is sound.
I'm certain it is 42.
I am a teacher, and my answer is yes.
Bu bir yapay zeka kursudur.
Bilmek istediğiniz tarih 1923.
Bilmiyorum kelimesi Türkçede olumsuz bir fiildir, diyemeyiz.
Maalesef tren saat beşte kalktı.
Üzgün görünüyorsunuz; biraz dinlenin.
Bu soru kolay: yanıt 4.
Özür dilemek için bir mektup: Sayın müdürüm,
Ankara.
Bu kitap çok güzel.
Yapay zeka, makinelerin öğrenmesidir.
Emin olun, hava güzel olacak.
Yardımcı olabilirim: önce ayarları açın.
Bu tamam, sıradaki soruya geçelim.
I'm afraid of spiders, too.
"""
# Begins with the very word that says so; what follows takes it back, and nobody can tell by an opening.
UNDECIDABLE = {"Bilmiyorum kelimesi Türkçede olumsuz bir fiildir, diyemeyiz."}


@pytest.mark.parametrize("text", [each for each in REFUSALS.split("\n") if each])
def test_a_refusal_is_one(text):
    assert refuses(text)


@pytest.mark.parametrize("text", [each for each in ANSWERS.split("\n") if each and each not in UNDECIDABLE])
def test_an_answer_is_none(text):
    assert not refuses(text)


def test_what_an_answer_says_later_is_no_refusal():
    assert not refuses("The answer is 4. " * 20 + "I'm sorry, but I can't help with more.")
    assert not refuses("")

"""Words that tell of somebody's health: illnesses, treatments, findings, in Turkish and English.

A list, and no judgement: who asks what diabetes is, is found like who has it. Where that is too strict, the class of
`health` is for the settings to lower.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.core.privacy.words import fold

# Beginnings of words, without marks as a keyboard without Turkish letters has them; endings follow.
_TURKISH = """
    alerjim alerjisi alkol_bagimli alkol_tedavi alkolig alzheimer ameliyat_ol ameliyat_oldu anemi anjiyo ankilozan
    anoreksi antibiyotik
    antidepresan astim bagimlilik_tedavi bel_fitig bel_soguklug bipolar bobrek_nakl bobrek_tas bobrek_yetmezlig
    boyun_fitig bronsit bulimi bunama cinsel_yolla covid_poziti crohn damar_tikan demans depresyon diyabet diyaliz
    down_sendrom
    dusuk_yapt egzama emar_sonu emg_sonu enfarktus engelli_rapor epikriz epilepsi ereksiyon felc_gecir fibromiyalji
    frengi gastrit gebelik_test gebeyim goz_tansiyon guatr hamileligim hamileyim hastalik_rapor hastaneye_yat
    hemodiyaliz hemofili hemoroid hepatit hipertansiyon hipertiroid hipotiroid hiv_pozitif huntington idrar_kacir
    idrar_tahlil idrar_yolu_enfeksiyon ilac_kullaniyor ilacimi_kullan inme_gecir insulin intihar is_goremezlik_rapor
    iskemi kalp_krizi kalp_pili kalp_yetmezlig kan_grubum kan_sekeri kan_tahlil kanama_bozuklug kanser kemoterapi
    kendime_zarar kist_aldir klamidya kolesterolum kolit kolonoskopi kolostomi konizasyon koroner kurtaj lenfoma
    losemi lupus mamografi mastektomi melanom menenjit menopoz metastaz migren miyokard miyom multipl_skleroz nefrit
    nobet_gecir obezite obsesif_kompulsif oforektomi onkoloji organ_nakli osteoporoz otizm panik_atak parkinson
    patoloji_rapor pcr_sonu polikistik prostat_ psikiyatr psikoz psoriasis radyoterapi rapor_parasi_hasta
    reaktif_artrit receteli recetem recetemdeki reflu romatizma romatoid safra_kesesi_ameliyat sarkoidoz sarkom
    sedef_hastalig seker_hastas siroz sizofren smear spinal_muskuler stent takil_stent talasemi tani_kon tanisi_kon
    tansiyon_hasta tansiyon_ilac tansiyonum tedavi_goruyor teshis_kon teshisi_kon tiroid_ travma_sonrasi tuberkuloz
    tumor tup_bebek ulser uyusturucu_tedavi verem_ol yumurtalik_kist zona_ol
"""
# Whole words, and their plurals.
_ENGLISH = """
    a1c adhd aids alzheimer_s alzheimers amputation anaemia anemia angina angioplasty anorexia anticoagulant
    antidepressant antipsychotic anxiety_disorder arrhythmia arthritis asperger_s asthma asthmatic autism autistic
    biopsy bipolar blood_pressure_medication blood_sugar blood_test bulimia cancer carcinoma chemo chemotherapy
    chlamydia cholesterol_level cirrhosis colonoscopy colostomy copd crohn_s crohns cystic_fibrosis dementia
    depressed depression depressive_disorder diabetes diabetic diagnosed_with dialysis discharge_summary
    eating_disorder eczema endometriosis epilepsy epileptic fibromyalgia gestational glaucoma gonorrhea had_a_stroke
    hay_fever_medication hba1c heart_attack heart_disease heart_failure hemophilia hepatitis herpes hiv hiv_positive
    hypertension hypertensive hyperthyroidism hypothyroidism hysterectomy i_am_pregnant i_m_pregnant ibs infertility
    insulin is_pregnant ivf kidney_disease kidney_failure kidney_stone lab_result leukaemia leukemia lupus lymphoma
    malignant mammogram mastectomy medical_record melanoma meningitis menopause metastasis metastatic migraine
    miscarriage multiple_sclerosis muscular_dystrophy my_diagnosis my_pregnancy my_prescription myocardial
    neuropathy obese obesity ocd oncologist oncology osteoarthritis osteoporosis ovarian overdose pacemaker
    pancreatitis panic_attack parkinson_s parkinsons patient_s_chart pneumonia post_traumatic prostate psa_level
    psoriasis psychiatric psychiatrist psychosis psychotic ptsd radiotherapy rehab rheumatoid schizophrenia
    schizophrenic scoliosis seizure self_harm sickle_cell sleep_apnea sobriety stroke_patient suicidal suicide
    syphilis test_results_from_my_doctor thyroid transplant tuberculosis tumor tumour ulcer ulcerative_colitis
    was_hospitalised was_hospitalized
"""
# Medicines, in either language, and with Turkish endings behind an apostrophe.
_MEDICINES = """
    abilify adderall alprazolam amlodipin amlodipine atorvastatin beloc cipralex citalopram clozapine concerta
    coumadin diazepam escitalopram euthyrox fentanyl fluoxetine gabapentin humira ibrutinib ibuprofen lamotrigine
    lansor levothyroxine lisinopril lithium_carbonate lustral lyrica metformin methadone methotrexate olanzapine
    ozempic prednisolone pregabalin prozac quetiapine risperidone ritalin sertralin sertraline tamoxifen tramadol
    truvada valsartan ventolin viagra warfarin wegovy xanax zoloft zyprexa
"""


def _table(*lists: tuple[str, str]) -> dict[str, re.Pattern[str]]:
    """By how a word begins: the terms that begin so. `lists`: terms, and what may follow them."""
    by_start: dict[str, list[str]] = {}
    for terms, endings in lists:
        for each in terms.split():
            words = re.escape(each).replace("_", r"[\W_]{1,2}")
            by_start.setdefault(each.split("_")[0][:_START_LETTERS], []).append(f"{words}(?:{endings})")
    return {start: re.compile("|".join(sorted(several, key=len, reverse=True))) for start, several in by_start.items()}


_START_LETTERS = 4
_TERMS = _table((_TURKISH, r"\w*"), (_ENGLISH, r"(?:e?s)?(?!\w)"), (_MEDICINES, r"(?:'?\w{1,6})?(?!\w)"))
_WORD = re.compile(r"[^\W_]+")


def health_terms(text: str) -> Iterator[tuple[int, int]]:
    """Where such words stand."""
    folded = fold(text)
    for word in _WORD.finditer(folded):
        terms = _TERMS.get(word[0][:_START_LETTERS])
        if terms is not None and (term := terms.match(folded, word.start())):
            yield term.span()

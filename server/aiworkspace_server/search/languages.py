"""Which of PostgreSQL's text search configurations fits a text: by its script, and among Latin ones by common words.

A text in a language that is not here is indexed word by word, without stems ("simple"). Text in Latin letters without
common words, such as tables and source code, counts as English.
"""

import re
from collections import Counter

_SAMPLE = 20_000  # characters from the beginning and as many from the middle
_LEAST_SHARE = 0.08  # of words that are common ones of the language, and the least number of them
_LEAST = 2
_WORD = re.compile(r"[^\W\d_]+")

DEFAULT, UNKNOWN = "english", "simple"

# First and last letter of scripts that one configuration, or none, is for.
_SCRIPTS = (
    ("Ͱ", "Ͽ", "greek"),
    ("Ѐ", "ӿ", "russian"),
    ("԰", "֏", "armenian"),
    ("֐", "׿", UNKNOWN),
    ("؀", "ۿ", "arabic"),
    ("ऀ", "ॿ", "hindi"),
    ("஀", "௿", "tamil"),
)

# The commonest words of each language, as far as they tell it from its neighbours.
_COMMON = {
    "english": "the of and to in is that for it was with as be on are by this from which have not or an has",
    "german": "der die und das ist nicht mit den von zu ein eine auf für dem sich des im werden wird auch bei oder",
    "french": "le la les des et est une un dans pour que qui pas du sur au par sont avec ce cette il elle nous vous",
    "spanish": "el la los las de que y en un una es por para con del se no su al lo como más pero sus está son",
    "portuguese": "o a os as de que e em um uma é para com não do da dos das no na se por mais como mas são ao",
    "italian": "il la di che e un una è per non con del della dei gli le in sono nel alla anche come più si lo",
    "dutch": "de het een en van is dat op te in voor met zijn niet aan er om ook als bij maar door wordt naar deze",
    "swedish": "och att det som en på är av för med den till inte ett har de om kan var från vi så eller när",
    "danish": "og at det som en på er af for med den til ikke et har de om kan var fra vi så eller når blev",
    "norwegian": "og at det som en på er av for med den til ikke et har de om kan var fra vi så eller når ble noen",
    "finnish": "ja on ei että se oli hän ovat mutta kuin myös tai jos niin voi ole sekä kun mukaan vain joka tämä",
    "hungarian": "a az és hogy nem is egy van volt meg csak ez de ha vagy mint már kell el még lehet azt",
    "romanian": "și în de la a cu pe este nu că care o un din pentru mai sunt se au fost prin sau al",
    "turkish": "ve bir bu da de için ile çok olarak daha gibi olan var ama ne kadar sonra değil ya en her",
    "catalan": "el la els les de que i en un una és per amb del no es al als més com dels aquest seva són",
    "lithuanian": "ir yra kad į iš su ne tai kaip buvo bet už apie arba jau tik nuo prie iki dėl jo šis",
    "estonian": "ja on ei et see oli ta ka kui oma mis kes või aga nii ning ära välja pole seda selle üle",
    "indonesian": "yang dan di itu dengan untuk tidak ini dari dalam akan pada juga ke karena ada oleh atau sebagai",
    "irish": "an na agus ar is go sé sin ag bhí don leis mar nach níl ach seo chun tá aon siad",
    "basque": "eta da ez du bat izan ere dira hau baina zen bere egin dute beste behar hori oso edo",
}
_LANGUAGES_OF: dict[str, list[str]] = {}
for _language, _words in _COMMON.items():
    for _word in _words.split():
        _LANGUAGES_OF.setdefault(_word, []).append(_language)

LANGUAGES = frozenset(_COMMON) | {language for _, _, language in _SCRIPTS} | {UNKNOWN}


def detect_language(text: str) -> str:
    """Return the name of the configuration for a text. The same text always gives the same one."""
    middle = len(text) // 2
    sample = text[:_SAMPLE] + (text[middle : middle + _SAMPLE] if len(text) > 2 * _SAMPLE else text[_SAMPLE:])
    words = _WORD.findall(sample.lower())
    by_script = Counter(_script(word[0]) for word in words)
    if not by_script:
        return DEFAULT
    script, _ = by_script.most_common(1)[0]
    return script if script != "latin" else _by_common_words(words)


def _script(letter: str) -> str:
    if letter < "\u0250":
        return "latin"
    return next((language for first, last, language in _SCRIPTS if first <= letter <= last), UNKNOWN)


def _by_common_words(words: list[str]) -> str:
    counts = Counter(language for word in words for language in _LANGUAGES_OF.get(word, ()))
    # The order of _COMMON decides between equals, so that the result never depends on the order of the words.
    best = max(_COMMON, key=lambda language: counts[language])
    if counts[best] >= max(_LEAST, _LEAST_SHARE * len(words)):
        return best
    return DEFAULT if sum(word.isascii() for word in words) >= 0.97 * len(words) else UNKNOWN

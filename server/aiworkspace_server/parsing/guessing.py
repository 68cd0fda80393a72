"""Guesses the encoding of bytes that are not UTF-8.

The bytes are decoded in each encoding that is in use, and the result that reads most like text is taken. For one short
sentence that is right more often than charset-normalizer, which decides among the alphabets with one byte a letter once
there is enough text to count.
"""

import codecs
import unicodedata
from functools import lru_cache

from charset_normalizer import from_bytes

from .decoding import SAMPLE, TEXT_CONTROLS, UTF_16

_ENOUGH = 400  # bytes from which charset-normalizer has something to count
# In order of preference: the first of equal ones is taken.
SINGLE_BYTE = ("cp1252", "cp1250", "cp1251", "koi8_r", "cp1253", "cp1254", "cp1255", "cp1256", "cp874", "cp866")
MULTI_BYTE = ("gb18030", "big5hkscs", "cp932", "euc_jp", "cp949")

# The characters that make up about half of running text in each language.
_CHINESE = frozenset(
    "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生自会那后能对着事其里所去行过家十用发天如然作方成者"
    "多日都三小军二无同么经法当起与好看学进种将还分此心前面又定见只主没公从知使现信因数明开文本长最新体业高理想话但问很全部市请们电"
    "這個為來們說國時於會過發對後裡還從經種當與學進無將見現動長實體業點開問關應樣樂電話請書車東風買賣讀寫聽門間題"
)
_KOREAN = frozenset("이다에는의을를가은한고지서로하기도사시리스자나어그아인대정일수있것들해적안과부보전")
_GB2312_COMMON = range(0xB0, 0xD8)  # first bytes of the 3755 characters of level 1
_BIG5_COMMON = range(0xA4, 0xC7)
_JIS_COMMON = range(0xB0, 0xD0)


def guess(data: bytes) -> str:
    """Return the name of the codec in which the bytes read most like text."""
    sample = data[:SAMPLE]
    candidates = ["utf-8", *SINGLE_BYTE, *MULTI_BYTE, *(UTF_16 if len(data) % 2 == 0 else ())]
    scores = {name: _score(_decode_sample(sample, name, len(data)), name) for name in candidates}
    best = max(candidates, key=lambda name: scores[name])  # the first of equal ones
    if best in SINGLE_BYTE and len(sample) >= _ENOUGH:
        found = from_bytes(sample, cp_isolation=list(SINGLE_BYTE)).best()
        if found is not None and scores.get(found.encoding, -9.0) > scores[best] - 0.1:
            best = found.encoding
    return str(best)


def _decode_sample(sample: bytes, encoding: str, size: int) -> str:
    """The sample without the part of a character that may stand at its end, unless it is the whole text."""
    decoder = codecs.getincrementaldecoder(encoding)("replace")
    return str(decoder.decode(sample, final=size == len(sample)))


def _score(text: str, encoding: str) -> float:
    """How much the characters beyond ASCII look like text: about 1 for right, below 0 for wrong.

    Few characters prove little, so that every encoding starts with two characters of its usual weight.
    """
    total, count = 2 * _USUAL.get(encoding, 0.0), 2
    before, second_before = " ", " "
    for character in text:
        if character >= "\x80":
            total += _weight(character, before, encoding)
            count += 1
        elif character < " " and character not in TEXT_CONTROLS:
            total -= 2
            count += 1
        if before >= "\x80" and character.isalpha():
            total -= _breaks_word(second_before, before, character)
        second_before, before = before, character
    return total / count - (1.0 if encoding in SINGLE_BYTE and _is_other_alphabet(text) else 0.0)


def _is_other_alphabet(text: str) -> bool:
    """Whether words of the sample consist of accented Latin letters alone, as Cyrillic does in a Latin encoding."""
    words = [word for word in text.split() if any("\xc0" <= letter <= "\u024f" for letter in word)]
    whole = [word for word in words if len(word) > 2 and all("\xc0" <= letter <= "\u024f" for letter in word[:-1])]
    return len(whole) * 3 > len(words)


def _breaks_word(second_before: str, before: str, after: str) -> float:
    if before.isalpha():
        return 1.0 if after < "\x80" and _clash(before, after) else 0.0
    inside = second_before.isalpha() and unicodedata.category(before) in _NOT_IN_WORDS
    return 1.0 if inside and before not in _QUOTES else 0.0


def _clash(before: str, after: str) -> bool:
    """Whether two letters side by side do not make a word: two alphabets, or a capital after a small letter."""
    if not (before.isalpha() and after.isalpha()):
        return False
    return _script(before) != _script(after) or (before.islower() and after.isupper())


def _weight(character: str, before: str, encoding: str) -> float:
    script = _script(character)
    if script in ("CJK", "HIRAGANA", "KATAKANA", "HANGUL"):
        return _east_asian(character, script, encoding)
    if character.isalpha():
        if encoding in MULTI_BYTE:
            return -0.3  # Greek and Cyrillic letters are in these sets, and hardly ever in their texts
        if _clash(before, character):
            return -1.0
        if script == "LATIN":
            return 0.0 if character in "þýðÞÝÐ" else 0.6  # Icelandic, or more likely what Turkish looks like
        return 0.7 if character.lower() in _FREQUENT else 0.2
    return _OF_CATEGORY.get(unicodedata.category(character), -0.5)


_USUAL = {"utf-8": 0.6, "cp1252": 0.6, "gb18030": 0.4, "cp1250": 0.3, "cp1251": 0.3, "big5hkscs": 0.2, "cp932": 0.2,
          "cp949": 0.2, "utf-16-le": 0.2, "cp1254": 0.2}  # fmt: skip
_FREQUENT = frozenset("оеаинтсрвлкмдпуяαοιετσνηυρπκμλςάίόέיוהלארתבשםמנاليمنترتبةوعدานรอกเงวมยลทสตปดคหบ่้ิีัแะ")
_NOT_IN_WORDS = frozenset(("So", "Sm", "Sc", "No", "Po", "Ps", "Pe", "Sk"))
_QUOTES = frozenset("·\u2018\u2019'")
_OF_CATEGORY = {
    "Po": 0.4, "Ps": 0.4, "Pe": 0.4, "Pi": 0.4, "Pf": 0.4, "Pd": 0.4, "Sc": 0.4, "Zs": 0.3, "So": 0.1, "Sm": 0.1,
    "Mn": 0.5, "Mc": 0.5, "Lm": 0.0, "No": 0.1, "Sk": 0.0, "Cf": -0.5, "Cc": -2.0, "Co": -3.0, "Cn": -3.0, "Cs": -3.0,
}  # fmt: skip


def _east_asian(character: str, script: str, encoding: str) -> float:
    if script == "HANGUL":
        return 1.0 if character in _KOREAN else 0.5 if _first_byte(character, "euc_kr") else -0.8
    if script in ("HIRAGANA", "KATAKANA"):
        if character >= "\uff61":
            return -0.6  # half-width: what other encodings look like in Shift-JIS
        return 1.0 if encoding in ("cp932", "euc_jp", *UTF_16) else -0.2
    if encoding == "cp949":
        return -0.6  # Korean is written without Chinese characters
    if encoding in ("cp932", "euc_jp"):
        return 0.5 if _first_byte(character, "euc_jp") in _JIS_COMMON else -0.5
    if character in _CHINESE:
        return 1.0
    common = _first_byte(character, "gb2312") in _GB2312_COMMON or _first_byte(character, "big5") in _BIG5_COMMON
    return 0.45 if common else -0.5


def _first_byte(character: str, encoding: str) -> int:
    try:
        return character.encode(encoding)[0]
    except UnicodeEncodeError:
        return 0


@lru_cache(1 << 16)
def _script(character: str) -> str:
    """The alphabet of a letter, as its Unicode name says it."""
    word = unicodedata.name(character, "").split(" ")[0]
    if "\uff61" <= character <= "\uff9f":
        return "KATAKANA"
    return "LATIN" if word in ("MICRO", "FEMININE", "MASCULINE") else word

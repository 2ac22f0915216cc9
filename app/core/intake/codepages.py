"""The names of an archive that says nothing of their encoding: which code page its packer used, told from the names.

A zip file either marks a name as UTF-8 or leaves open what it is; the standard then says cp437, but what packs files on
a Chinese, Japanese or Russian Windows writes its own code page, and a Mac writes UTF-8 without saying so. All names
of one archive come from one machine, so a code page fits only if every name decodes with it, and it fits well if what
comes out looks like words: letters in common use, of one script, not box drawings between them.

Nothing here is certain, so whoever asks is told the answer's name, to show it. What the names mean is not known here.
"""

import re
import unicodedata
from collections.abc import Iterable
from itertools import islice

# In this order where two fit equally well; what people call them.
CODE_PAGES = {
    "utf-8": "UTF-8",
    "cp437": "cp437 (DOS)",
    "cp850": "cp850 (DOS, western Europe)",
    "cp1252": "cp1252 (Windows, western Europe)",
    "cp852": "cp852 (DOS, central Europe)",
    "cp1250": "cp1250 (Windows, central Europe)",
    "gbk": "GBK (simplified Chinese)",
    "big5": "Big5 (traditional Chinese)",
    "cp932": "cp932 (Japanese)",
    "cp949": "cp949 (Korean)",
    "cp866": "cp866 (DOS, Cyrillic)",
    "cp1251": "cp1251 (Windows, Cyrillic)",
    "cp737": "cp737 (DOS, Greek)",
    "cp1253": "cp1253 (Windows, Greek)",
}
_LOOKED_AT = 1000  # different names; more say nothing new
_RARE, _ODD = 0.3, 0.05
_COMMON_CYRILLIC = "оеаинтсрвлкмдпуяыьгз"
_CYRILLIC = "бчйхжшюцщэфъё"
_COMMON_LATIN = "éèêëáàâäãåíìîïóòôöõúùûüñçßøæœ"  # the rest of Latin is rarer, whatever the language
_CENTRAL_LATIN = "ąćęłńśźżčďěňřšťůžýőűășțşţđ"
_COMMON_HANGUL = (
    "가각간갈감강개거건검게격견결경계고곡골공과관광교구국군굴권귀규균그극근금급기길김나난남내너넘노농누능니다단달담당대더덕도독돌동두"
    "드든등디라락란람량러레력련령로록론료루류르름리린마막만말망매머면명모목무문물미민바박반발방배백버번벌범법별병보복본봉부북분불비빈"
    "사산살상새색생서석선설성세소속손송수숙순술숨스슬습승시식신실심아악안알암압앙애야약양어억언얼엄업에여역연열염영예오온올와완왕외"
    "요용우운울원월위유육은을음응의이인일임입자작잔장재저적전절점접정제조족존종좌주중지직진질집차착참창채책처천철첨청체초촌총최추축"
    "출충치친칠침카커코크타탁탄태터토통트특파판패편평포표품풍피필하학한할함합항해행향허험현협형호혼홍화확환활황회효후훈휘흐희"
)
# Han characters that every user of a code page meets: the first level of its standard.
_FIRST_LEVEL = {"gbk": ("gb2312", 0xB0, 0xD7), "big5": ("big5", 0xA4, 0xC6), "cp932": ("shift_jis", 0x88, 0x98)}


def find_code_page(names: Iterable[bytes]) -> str:
    """The code page in which all names, none of them ASCII, decode and look most like words; cp437 if none does."""
    names = list(names)
    best, page = 0.0, "cp437"
    for candidate in CODE_PAGES:
        try:
            decoded = {part for name in names for part in name.decode(candidate).split("/")}
        except UnicodeDecodeError:
            continue
        if candidate == "utf-8":  # by accident, no other encoding's names are all well-formed
            return candidate
        looks = [_looks(part, candidate) for part in islice(sorted(decoded), _LOOKED_AT) if not part.isascii()]
        if (mean := sum(looks) / len(looks)) > best + 1e-9:
            best, page = mean, candidate
    return page


def garbled(names: Iterable[str]) -> bool:
    """Whether names are bytes of another code page that were read as cp437: full of the lines it draws boxes with."""
    names = list(names)
    try:
        "".join(names).encode("cp437")
    except UnicodeEncodeError:
        return False
    return any("\u2500" <= character <= "\u259f" for name in names for character in name)


def _looks(name: str, page: str) -> float:
    """How much a name looks like words, from 0 to 1: the mean over the characters that are not ASCII."""
    name = unicodedata.normalize("NFC", name)
    weights = []
    for word in re.findall(r"[^\W\d_]+|[^\w\s]", name):
        shape = 1.0 if word in (word.lower(), word.upper(), word.capitalize()) else _RARE
        scripts = {_script(character) for character in word if character.isalpha()}
        if not scripts <= {"LATIN"} and not scripts & {"CJK", "HIRAGANA", "KATAKANA", "HANGUL"} and len(scripts) > 1:
            shape = _ODD  # a Greek letter within a Latin word
        foreign = sum(not character.isascii() for character in word)
        if scripts == {"LATIN"} and foreign > 1 and foreign > 0.7 * len(word):
            shape = _ODD  # hardly a word of any language
        weights += [shape * _weight(character, page) for character in word if not character.isascii()]
    return sum(weights) / len(weights) if weights else _ODD


def _script(character: str) -> str:
    return unicodedata.name(character, "").split(" ", maxsplit=1)[0]


def _weight(character: str, page: str) -> float:
    if not character.isalpha():
        return _RARE if unicodedata.category(character) in ("Po", "Pd", "Ps", "Pe", "Mn", "Mc") else 0.0
    letter = character.lower()
    match _script(character):
        case "CJK":
            return 0.9 if _is_first_level(character, page) else _RARE
        case "HIRAGANA" | "KATAKANA":
            return 1.0 if page == "cp932" else _RARE
        case "KATAKANA-HIRAGANA":  # the sign of a long vowel
            return 1.0
        case "HANGUL":
            return 1.0 if page == "cp949" and character in _COMMON_HANGUL else _RARE
        case "CYRILLIC":
            return 1.0 if letter in _COMMON_CYRILLIC else 0.6 if letter in _CYRILLIC else _RARE
        case "GREEK":
            return 0.9
        case "LATIN":
            return 1.0 if letter in _COMMON_LATIN else 0.9 if letter in _CENTRAL_LATIN else _RARE
        case _:
            return _ODD


def _is_first_level(character: str, page: str) -> bool:
    if page not in _FIRST_LEVEL:
        return False
    standard, low, high = _FIRST_LEVEL[page]
    return low <= _lead(character, standard) <= high


def _lead(character: str, standard: str) -> int:
    """The first byte of a character in a standard, 0 where it has none."""
    try:
        return character.encode(standard)[0]
    except UnicodeEncodeError:
        return 0

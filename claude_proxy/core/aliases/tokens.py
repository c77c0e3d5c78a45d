"""Token estimates: how many tokens a text will be, without a tokenizer.

A linear model over counts that C code makes. Tokenizers first cut a text into words, numbers, runs of punctuation and
indentations, then the longer of these into pieces. So each byte is replaced by a letter for its class, and what is
counted are borders between classes: where a word begins, where punctuation meets a letter, where a line is indented.
The weights are fitted to real tokenizers by `bench/tokens.py`; `docs/token-estimates.md` says how good they are.

The model behind an alias may use another tokenizer than these. So a `Correction` learns from the usage that comes back.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import mul
from typing import TypeAlias

from claude_proxy.core.messages.content import Document, Image
from claude_proxy.settings.alias_facts import Tokenizer

Counts: TypeAlias = tuple[int, ...]


def estimate(texts: Iterable[str], tokenizer: Tokenizer = "openai") -> int:
    """The number of tokens that texts will be, at least 1. Each text costs a few more for its role."""
    return max(1, sum(join([measure(text, tokenizer)]) for text in texts))


def measure(text: str, tokenizer: Tokenizer) -> int:
    """The number of tokens that a text, or a part of one, will be."""
    return weigh(count(text), weights(tokenizer))


def join(measured: Sequence[int]) -> int:
    """The number of tokens of one text with its role, given those of its parts, between which there are empty lines."""
    return _FOR_ROLE + sum(measured) + _EMPTY_LINE * (len(measured) - 1)


_FOR_ROLE = 4
_EMPTY_LINE = 2  # about: by the weights 0.9 to 2.6, by what stands before and behind it

# Rough: vendors count by the size of an image in pixels, which costs Anthropic's models at most this, and by the pages
# of a PDF, of which one with text has some 30 kB and costs about 2,000.
_PER_IMAGE = 1_600
_PDF_CHARACTERS_PER_TOKEN = 20


def estimate_media(media: Iterable[Image | Document]) -> int:
    """The number of tokens that images and PDFs will be."""
    return sum(
        max(_PER_IMAGE, len(each.pdf) // _PDF_CHARACTERS_PER_TOKEN) if isinstance(each, Document) else _PER_IMAGE
        for each in media
    )


def weigh(counts: Counts, costs: Sequence[float]) -> int:
    """Counts times what each costs."""
    total: float = sum(map(mul, counts, costs))
    return round(total)


# --- what is counted --------------------------------------------------------------------------------------------------


def _classes(rest: str, **classes: bytes | range) -> bytes:
    """A table for `bytes.translate` that replaces each byte by the letter of its class."""
    table = bytearray(rest.encode() * 256)
    for name, members in classes.items():
        for byte in members:
            table[byte] = ord(name)
    return bytes(table)


_LETTERS = string.ascii_letters.encode()
_VOWELS = b"aeiouAEIOU"
# What has many of these letters is seldom a common word, and is cut into more pieces.
_RARE_LETTERS = b"jkqvwxyzBFGHJKMPQUVWXYZ"

# Lower case, upper case, digits, white space, line ends; two kinds of bytes of wide characters; everything else.
_KIND = _classes(
    "p",
    a=string.ascii_lowercase.encode(),
    A=string.ascii_uppercase.encode(),
    d=string.digits.encode(),
    s=b" \t",
    n=b"\r\n",
    c=range(0x80, 0xC0),
    w=range(0xC0, 0x100),
)
_LETTER = _classes("-", a=_LETTERS)
_RARE = _classes("-", a=_RARE_LETTERS)
_CONSONANT = _classes("-", a=bytes(set(_LETTERS) - set(_VOWELS)))

# By the first byte of a character in UTF-8.
_SCRIPT = _classes(
    "-",
    L=range(0xC3, 0xCE),
    G=range(0xCE, 0xD0),
    C=range(0xD0, 0xD8),
    A=range(0xD8, 0xE0),
    I=range(0xE0, 0xE2),
    S=b"\xc2\xe2",
    K=b"\xe3",
    H=range(0xE4, 0xEA),
    N=range(0xEA, 0xEE),
    F=range(0xEE, 0xF0),
    E=range(0xF0, 0xF8),
)


def count(text: str) -> Counts:
    """What the weights belong to, in the order of `FEATURES`. No count shrinks when text is added."""
    data = text.encode(errors="replace")
    kinds = data.translate(_KIND)
    letters = data.translate(_LETTER)
    return (
        letters.startswith(b"a") + letters.count(b"-a"),
        letters.count(b"aaaaaaaa"),
        data.translate(_RARE).count(b"a"),
        data.translate(_CONSONANT).count(b"aaa"),
        *map(kinds.count, _BORDERS),
        data.count(b'"'),
        data.count(b"/"),
        data.count(b"\\"),
        *(_NO_WIDE if text.isascii() else _count_wide(data)),
    )


_BORDERS = (b"d", b"ad", b"Ad", b"sd", b"dp", b"p", b"pa", b"pA", b"ps", b"pss", b"pn", b"n", b"na", b"nss")


def _count_wide(data: bytes) -> Counts:
    return (*map(data.translate(_SCRIPT).count, _SCRIPTS), data.count(_HIRAGANA))


_SCRIPTS = (b"L", b"G", b"C", b"A", b"I", b"S", b"K", b"H", b"N", b"F", b"E")
_HIRAGANA = b"\xe3\x81"
_NO_WIDE = (0,) * (len(_SCRIPTS) + 1)

# What is counted, and what it costs with o200k_base and with the tokenizer that Anthropic once published. None is
# negative: more text never costs less. `bench/tokens.py --fit` prints the figures.
_TABLE = (
    ("words", 0.777, 0.78),
    ("eights of letters in a row", 0.252, 0.647),
    ("rare letters", 0.373, 0.447),
    ("threes of consonants in a row", 0.406, 0.35),
    ("digits", 0.384, 0.478),
    ("digits after a small letter", 0.623, 0.464),
    ("digits after a capital", 3.676, 3.136),
    ("digits after a space", 1.003, 0.078),
    ("marks after a digit", 0.962, 0.884),
    ("punctuation marks", 0.267, 0.137),
    ("small letters after a mark", 0.061, 0.787),
    ("capitals after a mark", 0.438, 1.258),
    ("spaces after a mark", 0.631, 0.898),
    ("wide gaps after a mark", 2.457, 1.183),
    ("line ends after a mark", 0.323, 1.425),
    ("line ends", 0.595, 0.46),
    ("lines that begin with a small letter", 0.757, 0.0),
    ("lines that are indented", 1.085, 0.023),
    ("quotation marks", 0.143, 0.08),
    ("slashes", 0.487, 0.053),
    ("backslashes", 0.687, 0.459),
    ("accented Latin letters", 0.498, 2.082),
    ("Greek letters", 0.505, 1.326),
    ("Cyrillic and Hebrew letters", 0.246, 0.561),
    ("Arabic letters", 0.343, 1.095),
    ("Indian, Thai and Georgian letters", 0.329, 1.572),
    ("signs and dashes", 1.524, 1.313),
    ("kana and East Asian punctuation", 0.382, 0.706),
    ("Han characters", 0.797, 1.036),
    ("Hangul syllables", 0.734, 1.337),
    ("full-width characters", 1.027, 1.875),
    ("emoji", 5.188, 2.156),
    ("hiragana, besides", 0.615, 0.562),
)

FEATURES = tuple(name for name, *_ in _TABLE)

_WEIGHTS: Mapping[Tokenizer, Sequence[float]] = {
    "openai": tuple(openai for _, openai, _ in _TABLE),
    "claude": tuple(claude for _, _, claude in _TABLE),
}


def weights(tokenizer: Tokenizer) -> Sequence[float]:
    """What each of `FEATURES` costs."""
    return _WEIGHTS[tokenizer]


# --- what is learned while running ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Correction:
    """What the usage that came back from an alias says about the estimates for it.

    Attributes:
        factor: real tokens by estimated ones.
        margin: how far off a corrected estimate may still be, relatively.
        calls: how many answers this rests on.
    """

    factor: float = 1.0
    margin: float = 0.10
    calls: int = 0

    def learn(self, estimated: int, real: int) -> Correction:
        """What is believed after an answer.

        The first answer is believed outright, each later one less, yet never so little that a change goes unnoticed.

        Args:
            estimated: what `estimate` said of the prompt, not corrected.
            real: the usage that came back for it.
        """
        # Of a small prompt most is overhead that is not text. And a count far below the estimate is a count of
        # something else, such as the tokens that no cache held; taking it for the truth would let everything pass.
        if estimated < _LEAST_ESTIMATE or real < _LEAST_FACTOR * estimated:
            return self
        ratio = min(real / estimated, _MOST_FACTOR)
        factor = self.factor + max(1 / (self.calls + 1), _LEAST_GAIN) * (ratio - self.factor)
        # Twice the error of late, for safety; half of what was believed before.
        margin = (self.margin + 2 * abs(ratio / self.factor - 1)) / 2
        return Correction(factor, min(max(margin, _LEAST_MARGIN), _MOST_MARGIN), self.calls + 1)

    def apply(self, estimated: int) -> int:
        """The estimate, corrected: what is most likely, for reports."""
        return max(1, round(estimated * self.factor))

    def apply_cautiously(self, estimated: int) -> int:
        """The estimate, corrected, with the margin on top: what a prompt may be, for the check against a window.

        The margin is on this side because the two mistakes differ in price. A prompt refused that would have fitted
        makes a client shorten its conversation a little early; one sent that does not fit comes back, late, as an
        apology that names no cause.
        """
        return max(1, round(estimated * self.factor * (1 + self.margin)))


_LEAST_ESTIMATE = 1000
_LEAST_FACTOR = 0.5
_MOST_FACTOR = 2.0
_LEAST_GAIN = 0.3
_LEAST_MARGIN = 0.03
_MOST_MARGIN = 0.10

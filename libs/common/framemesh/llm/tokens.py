"""How many tokens a text has, about."""

from __future__ import annotations

import math

_EAST = 0x2E80
"""From here on a character is mostly a syllable or a word."""


def estimate(text: str) -> int:
    """Tokens of ``text``, estimated: 4 ASCII characters a token, 2 of other alphabets, 1 of Chinese and the like.

    The true number needs the model's own tokenizer. This one is rather too high than too low for prose.
    """
    ascii_only = sum(character < "\x80" for character in text)
    east = sum(ord(character) >= _EAST for character in text)
    return math.ceil(ascii_only / 4 + (len(text) - ascii_only - east) / 2 + east)

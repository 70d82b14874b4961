"""Text of others, as it may be printed: nothing in it acts on a terminal or turns a line round."""

from __future__ import annotations

import unicodedata

#: What stays: tabs and line ends.
_KEPT = "\t\n"

#: Control characters, those without a look of their own (direction, joiners), and halves of pairs.
_UNSEEN = ("Cc", "Cf", "Cs")


class _Written(dict[int, str]):
    """What `str.translate` puts in the place of a letter; filled as letters are met."""

    def __missing__(self, number: int) -> str:
        letter = chr(number)
        harmless = letter in _KEPT or unicodedata.category(letter) not in _UNSEEN
        self[number] = letter if harmless else _escape(number)
        return self[number]


_WRITTEN = _Written()


def visible(text: str) -> str:
    r"""The text with control and direction characters written out, such as `\x1b`.

    Escape sequences colour and rename a terminal, and a right-to-left override makes a name look
    like another one.
    """
    if text.isascii() and text.isprintable():
        return text
    return text.translate(_WRITTEN)


def _escape(number: int) -> str:
    if number < 0x100:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"

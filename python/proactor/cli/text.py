"""How bytes from strangers are shown: quoted, escaped and shortened. Knows nothing of connections or terminals.

Whatever a peer sends comes out as printable characters on one line, so that it can neither forge a log line nor
send a terminal its codes. Control characters, line and paragraph separators, bidirectional overrides, other
characters that nothing is drawn for and unassigned code points are escaped; bytes that are not UTF-8 become `\\xNN`.
"""

import dataclasses
import re

SHOWN_BYTES = 256
"""A longer chunk is shown shortened to this many bytes."""

LONGEST_CHARACTER = 4
"""Bytes of the longest UTF-8 sequence."""


def quoted(data: bytes, *, limit: int = SHOWN_BYTES) -> str:
    """`data` in double quotes, escaped; of more than `limit` bytes only the first, and a note of how many."""
    if len(data) <= limit:
        return f'"{_escaped(data)}"'
    head, _ = split_unfinished(data[:limit])
    return f'"{_escaped(head)}"... (the first {len(head)} of {len(data)} bytes)'


def printable(text: str, *, keep: str = "") -> str:
    """`text` with every character escaped that does not print, except those in `keep`. A backslash stays as it is."""
    if is_shown(text):
        return text
    return "".join(character if is_shown(character) or character in keep else _escape(character) for character in text)


def is_shown(text: str) -> bool:
    """Whether every character of `text` is one that a reader sees as what it is; a space is."""
    return text.isprintable() and (text.isascii() or _INVISIBLE.search(text) is None)


def counted(number: int, noun: str) -> str:
    """`1 client`, `2 clients`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def split_unfinished(data: bytes) -> tuple[bytes, bytes]:
    """Cuts off the bytes at the end that begin a UTF-8 character but do not finish it: `(whole, unfinished)`."""
    for length in range(1, min(LONGEST_CHARACTER, len(data) + 1)):
        byte = data[-length]
        if byte & 0b1100_0000 == 0b1000_0000:  # A continuation: the first byte is further left.
            continue
        if _expected_length(byte) > length and _may_continue(data[-length:]):
            return data[:-length], data[-length:]
        break
    return data, b""


@dataclasses.dataclass(slots=True)
class TextStream:
    """Shows one connection's chunks; a character that was split across two is shown with the second. One thread at a time."""

    unfinished: bytes = b""

    def show(self, chunk: bytes) -> str:
        whole, unfinished = split_unfinished(self.unfinished + chunk)
        self.unfinished = unfinished
        return quoted(whole)

    def finish(self) -> str:
        """What never became a character, escaped; an empty string if nothing was left."""
        rest, self.unfinished = self.unfinished, b""
        return quoted(rest) if rest else ""


def _escaped(data: bytes) -> str:
    text = data.decode("utf-8", "surrogateescape")
    if is_shown(text) and '"' not in text and "\\" not in text:
        return text
    return "".join(character if is_shown(character) and character not in '"\\' else _escape(character) for character in text)


def _escape(character: str) -> str:
    code = ord(character)
    if character in _SHORT:
        return _SHORT[character]
    if 0xDC80 <= code <= 0xDCFF:  # What `surrogateescape` made of a byte that is not UTF-8.
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    # Not \x85 for U+0085: that is the bare byte 0x85.
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _expected_length(first: int) -> int:
    """Bytes of the character that starts with `first`; 0 if none does."""
    if first < 0x80:
        return 1
    if 0xC2 <= first <= 0xDF:
        return 2
    if 0xE0 <= first <= 0xEF:
        return 3
    return 4 if 0xF0 <= first <= 0xF4 else 0


def _may_continue(start: bytes) -> bool:
    """Whether some character begins so: overlong forms, surrogates and what lies above U+10FFFF do not."""
    try:
        start.decode("utf-8")
    except UnicodeDecodeError as error:
        return error.reason == "unexpected end of data"
    return False


# Those of Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt) that `isprintable` takes for letters and marks: joiners,
# Hangul and Khmer fillers, variation selectors. Unseen text could be hidden in them, and forged names told apart by nothing that shows.
_INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\\": "\\\\", '"': '\\"'}

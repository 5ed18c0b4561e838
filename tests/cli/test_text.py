"""How bytes from strangers are shown."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proactor.cli.text import TextStream, printable, quoted, split_unfinished


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (b"", '""'),
        (b"plain text", '"plain text"'),
        ("grüße, 你好, 🙂".encode(), '"grüße, 你好, 🙂"'),
        (b"a\r\n\tb", r'"a\r\n\tb"'),
        (b'say "hi" \\n', r'"say \"hi\" \\n"'),
        (b"\x00\x07\x1b[0m\x7f", r'"\x00\x07\x1b[0m\x7f"'),
        (b"\xff\xc3(\x80", r'"\xff\xc3(\x80"'),
        ("\x85\u2028\u2029\u202e\u2066\u200b\ufeff\U000e0001".encode(), r'"\u0085\u2028\u2029\u202e\u2066\u200b\ufeff\U000e0001"'),
        (b"\xed\xa0\x80", r'"\xed\xa0\x80"'),
    ],
)
def test_what_does_not_print_is_escaped(data, shown):
    assert quoted(data) == shown


def test_a_long_chunk_is_shortened_between_characters():
    assert quoted("é".encode() * 10, limit=5) == '"éé"... (the first 4 of 20 bytes)'


def test_a_chunk_of_just_the_limit_is_not_shortened():
    assert quoted(b"x" * 256) == f'"{"x" * 256}"'


@given(st.binary(max_size=60))
def test_whatever_comes_is_printable_and_on_one_line(data):
    shown = quoted(data)
    assert shown.isprintable()
    assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in shown)


@pytest.mark.parametrize("character", "\u034f\u115f\u1160\u17b4\u180b\u3164\ufe0f\uffa0\U000e0100", ids=ascii)
def test_a_character_that_nothing_is_drawn_for_is_escaped(character):
    assert quoted(f"a{character}b".encode()) == f'"a{ascii(character)[1:-1]}b"'
    assert printable(f"a{character}b") == f"a{ascii(character)[1:-1]}b"


def test_letters_of_any_script_and_their_marks_are_shown_as_they_are():
    for text in ("Grüße", "안녕하세요", "ภาษาไทย", "हिन्दी", "ភាសាខ្មែរ", "e\u0301", "😀"):
        assert quoted(text.encode()) == f'"{text}"'


@given(st.text(max_size=40), st.text(max_size=40))
def test_different_texts_are_shown_differently(one, other):
    first, second = one.encode("utf-8", "replace"), other.encode("utf-8", "replace")
    assert (quoted(first) == quoted(second)) == (first == second)


@given(st.binary(max_size=40))
def test_splitting_loses_nothing_and_leaves_less_than_a_character(data):
    whole, unfinished = split_unfinished(data)
    assert whole + unfinished == data
    assert len(unfinished) < 4


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=20), st.data())
def test_a_text_split_anywhere_is_shown_without_a_broken_character(text, source):
    data = text.encode()
    cuts = sorted(source.draw(st.lists(st.integers(0, len(data)), max_size=5)))
    stream = TextStream()
    shown = "".join(stream.show(data[start:end])[1:-1] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True))
    assert f'"{shown}"' == quoted(data)
    assert stream.finish() == ""


def test_the_beginning_of_a_character_that_cannot_be_is_not_kept_back():
    assert split_unfinished(b"\xe0\x80") == (b"\xe0\x80", b"")
    assert split_unfinished(b"\xf4\x90") == (b"\xf4\x90", b"")
    assert split_unfinished(b"\xc0") == (b"\xc0", b"")
    assert split_unfinished(b"\xf0\x9f\x99") == (b"", b"\xf0\x9f\x99")


def test_printable_keeps_what_it_is_told_to():
    assert printable("a\tb\x1b\\n", keep="\t") == "a\tb\\x1b\\n"

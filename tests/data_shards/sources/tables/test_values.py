"""Classes, texts and paths of rows: of the right kind, or a reason."""

import pytest

from data_shards.sources.tables.values import Classes, beside, bytes_in, text_in
from data_shards.sources.units import Unusable


@pytest.mark.parametrize("value, number", [(1, 1), (-1, None), ("dog", 1)])
def test_numbers_of_named_classes(value, number):
    assert Classes(("cat", "dog"), numbered=True).number(value, "label") == number


@pytest.mark.parametrize("value", [2, -2, True, 0.0, "emu", None, [1]])
def test_what_is_no_class_is_told(value):
    with pytest.raises(Unusable, match="none of the 2 classes of 'label'"):
        Classes(("cat", "dog"), numbered=True).number(value, "label")


def test_texts():
    assert text_in(b" a ", "text") == text_in(" a ", "text") == "a" and text_in(None, "text") is None
    for value, reason in ((b"\xff", "no text in 'text'"), (3, "no text in 'text'"), ("\ud83d", "surrogate")):
        with pytest.raises(Unusable, match=reason):
            text_in(value, "text")


@pytest.mark.parametrize("path", ["b.png", "a\0.png", "x" * 5000, ".", ""])
def test_paths_that_lead_nowhere(tmp_path, path):
    (tmp_path / "a.png").write_bytes(b"1")
    assert beside(f"{tmp_path}/table", "a.png") == f"{tmp_path}/a.png"
    with pytest.raises(Unusable, match="not there"):
        beside(f"{tmp_path}/table", path)


def test_plain_strings_are_paths_and_not_base64():
    assert bytes_in("aGk=") is None and bytes_in({"bytes": "aGk="}) == bytes_in("data:text;base64,aGk=") == b"hi"

"""Labels and transcripts beside a sample: read, or a bad sample that says what is missing."""

import pytest

from data_shards.loading.labels import read_label, read_transcript
from data_shards.shards.bad_sample import BadSample


def test_what_is_there_is_read():
    assert read_label({"cls": b"17", "txt": b"3"}) == 17
    assert read_transcript({"txt": "A naïve café".encode(), "cls": b"1"}) == "A naïve café"
    assert read_transcript({"txt": b""}) == ""


@pytest.mark.parametrize("members", [{}, {"txt": b"1"}, {"cls": b""}, {"cls": b"cat"}])
def test_no_number_is_a_bad_sample(members):
    with pytest.raises(BadSample, match=r"no class number \(member \.cls\)") as error:
        read_label(members)
    assert error.value.kind == "member"


@pytest.mark.parametrize(("members", "kind"), [({"cls": b"1"}, "member"), ({"txt": b"caf\xe9"}, "decode")])
def test_no_text_is_a_bad_sample(members, kind):
    with pytest.raises(BadSample, match=r"member \.txt") as error:
        read_transcript(members)
    assert error.value.kind == kind

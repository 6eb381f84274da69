from data_shards.speech.containers.stream import is_padding, tag_size


def test_the_size_of_a_tag_has_seven_bits_a_byte():
    assert tag_size(b"ID3\4\0\0\0\0\1\2" + bytes(200)) == 10 + 130
    assert tag_size(b"ID3\4\0\x10\0\0\1\2") == 20 + 130  # with a footer
    assert tag_size(b"ID3\4\0\0\xff\xff\xff\xff") == tag_size(b"fLaC") == tag_size(b"ID3") == 0


def test_padding_is_zeros_or_a_tag():
    assert all(map(is_padding, (b"", bytes(9), b"TAG...", b"APETAGEX")))
    assert not is_padding(b"\0\1")

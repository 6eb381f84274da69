import numpy as np
import pytest

from data_shards.speech.containers.stream import Stream
from data_shards.speech.decoder import Decoder, TooLong
from tests.data_shards.speech.recorded import NOISE, encoded, mp3


def test_what_libsndfile_reads_beyond_the_kinds_that_are_checked_is_refused_by_name():
    with pytest.raises(ValueError, match="VOC of PCM_16, which is not read; convert it to FLAC or WAV"):
        Decoder(Stream(encoded(kind="VOC")), 60)
    with pytest.raises(ValueError, match="CAF of ALAC_16"):
        Decoder(Stream(encoded(kind="CAF", subtype="ALAC_16")), 60)


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "GSM610"), ("WAV", "IMA_ADPCM"), ("OGG", "VORBIS")])
def test_a_part_alone_is_read_of_codecs_that_can_be_entered_anywhere(kind, subtype):
    assert not Decoder(Stream(encoded(kind=kind, subtype=subtype)), 60).seekable
    assert Decoder(Stream(encoded(kind="W64", subtype="PCM_24")), 60).seekable


def test_a_length_other_than_the_counted_one_is_refused():
    with pytest.raises(ValueError, match=r"a wrong length in its header: 80000 samples, and 79000 are there"):
        Decoder(Stream(encoded(), sound=2 * 79_000), 60)
    with pytest.raises(ValueError, match="and 160000 are there"):
        Decoder(Stream(mp3(), samples=160_000), 60)


def test_of_many_channels_fewer_samples_are_decoded_at_once():
    """A header may promise 1024 channels: 2**20 samples of them would be 4 GiB."""
    data = encoded(np.zeros((40_000, 256), "f4"), kind="WAV", subtype="PCM_U8")
    sizes = [block.shape for block in Decoder(Stream(data), 60).blocks("int16")]
    assert sizes == [(32768, 256), (7232, 256)]


def test_the_most_seconds_are_those_of_the_header_or_of_what_is_decoded():
    for stream in (Stream(encoded(kind="FLAC")), Stream(encoded(kind="FLAC"), promised=10**9)):
        with pytest.raises(TooLong, match=r"more than 4 s"):
            list(Decoder(stream, 4).blocks("int16"))
    assert sum(map(len, Decoder(Stream(encoded(kind="FLAC")), 5).blocks("int16"))) == len(NOISE)

"""What a sample is, and its length, from its members."""

import io
import re
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image

from configs.schema_modalities import MODALITIES
from configs.signals import frames
from data_shards.kinds import KINDS, kind_of, length_of, measure, modality_of
from data_shards.shards.bad_sample import BadSample
from data_shards.speech.audio import flac
from data_shards.text.tokens import tokens_npy
from tests.data_shards.shard_tools import encoded, member, text_ids


def test_the_length_of_a_recording_is_in_frames_and_0_where_it_is_damaged():
    data = flac(np.random.default_rng(0).integers(-32768, 32768, 5000).astype(np.int16))
    assert length_of({"flac": data, "cls": b"1"}) == frames(5000)
    assert length_of({"flac": b"no audio"}) == 0


def test_there_is_a_kind_for_every_modality_and_no_extension_is_of_two():
    assert [kind.modality for kind in KINDS] == list(MODALITIES)
    extensions = [name for kind in KINDS for name in kind.extensions]
    assert len(set(extensions)) == len(extensions)
    with pytest.raises(FrozenInstanceError):
        kind_of("text").noun = "ids"


@pytest.mark.parametrize("modality", MODALITIES)
def test_members_tell_the_modality_and_what_is_missing_is_named(modality):
    kind = kind_of(modality)
    members = {"cls": b"1", kind.extensions[-1]: b"content"}
    assert modality_of(members) == modality and kind.content(members) == b"content"
    with pytest.raises(BadSample, match="among its members: cls, other") as error:
        kind.content({"other": b"", "cls": b""})
    assert error.value.kind == "member" and kind.noun in str(error.value)
    assert modality_of({"cls": b""}) is None and length_of({"cls": b"1"}) == 0


def test_damaged_members_do_not_decode():
    for kind in KINDS:
        with pytest.raises(Exception):  # noqa: B017 codecs raise anything
            kind.decode(b"no such thing", None)


def test_a_sample_is_measured_or_the_reason_is_told():
    assert measure({"flac": flac(np.zeros(4000, np.int16)), "txt": b""}) == (12, "")
    assert measure({"jpg": b"\0" * 9}) == (0, ".jpg: not decodable: zeros")
    assert measure({"txt": b"a", "cls": b"1"}) == (0, "no image, recording or token ids among its members: cls, txt")


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_message_names_an_object_of_python(modality):
    """Nothing in it that the next run would not say again."""
    kind, ((extension, data),) = kind_of(modality), member(1, modality).items()
    for damaged in (b"", data[:3], data[:30], data[: len(data) // 2], data[:-2], b"\0" + data, b"x" * 100):
        for use in (kind.length, lambda data: kind.decode(data, 300)):
            try:
                use(damaged)
            except Exception as error:
                assert not re.search(r"0x[0-9a-f]{6}|<\w+\.", str(error)), f"{extension}: {error}"


def noise(deviation: float) -> bytes:
    return flac((1000 + deviation * np.random.default_rng(0).standard_normal(20_000)).astype(np.int16))


def image(low: int, high: int) -> bytes:
    pixels = np.random.default_rng(0).integers(low, high, (20, 30, 3), np.uint8)
    Image.fromarray(pixels).save(buffer := io.BytesIO(), "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("modality", "data", "flaw"),
    [
        ("vision", image(7, 8), "of one colour"),
        ("vision", image(7, 9), ""),
        ("vision", encoded(0), ""),
        ("speech", noise(20), "silent"),
        ("speech", noise(40), ""),
        ("text", tokens_npy([0, 2, 1, 2], 300), "without a word"),
        ("text", tokens_npy(text_ids(0), 300), ""),
    ],
)
def test_samples_that_teach_nothing_are_found(modality, data, flaw):
    assert kind_of(modality).flaw(data) == flaw


@pytest.mark.parametrize("modality", MODALITIES)
def test_damage_is_no_flaw_but_an_error(modality):
    with pytest.raises((ValueError, BadSample)):
        kind_of(modality).flaw(b"none" * 10)

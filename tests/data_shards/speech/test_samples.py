from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from configs.schema_modalities import SpeechConfig, SpeechMaskConfig
from configs.signals import samples_of
from data_shards.batch import frames
from data_shards.loading.loader import open_loader
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.bad_sample import BadSample
from data_shards.shards.index_file import FolderIndex
from data_shards.shards.sidecar import sidecar
from data_shards.speech.audio import flac, read_audio
from data_shards.speech.samples import Clips, crop_of, decode, statistics
from tests.data_shards.shard_tools import (
    SPEECH,
    clip,
    counted_steps,
    flip_byte,
    make_shards,
    replace_sidecar,
    small_config,
)
from tests.own import own

CLIPS = Clips(own(small_config("", modality="speech")))


def shards_of(folder, samples):
    """Shards of clips of so many samples each."""
    entry = write_shard(
        folder / "train-000000.tar", [(f"{i:06d}", {"flac": clip(i, n)}) for i, n in enumerate(samples)]
    )
    save_folder_index(folder, FolderIndex((entry,)))
    return f"{folder}/train-*.tar"


def test_a_recording_is_normalised_whole_and_as_published(monkeypatch):
    """Layer normalisation over the waveform in [-1, 1], before the crop."""
    samples = read_audio(clip(3, 16000))
    mean, inverse_std = statistics(samples)
    wave = torch.from_numpy(samples / 32768).float()
    ours = (torch.from_numpy(samples).float() - mean) * inverse_std
    assert torch.allclose(ours, F.layer_norm(wave, wave.shape), atol=1e-4)
    monkeypatch.setattr("data_shards.speech.samples._BLOCK", 999)
    assert statistics(samples) == (mean, inverse_std)
    assert statistics(np.zeros(1000, np.int16)) == (0.0, pytest.approx(1 / (32768 * 1e-5**0.5)))
    batch = CLIPS.unmasked(np.arange(1), [CLIPS.load({"flac": clip(3, 16000)}, np.array([0.3]), 5)])
    assert batch.inputs.shape == (1, samples_of(5))
    assert batch.scale.tolist() == [pytest.approx([mean, inverse_std])]


def test_crops_reach_from_end_to_end():
    assert crop_of(2000, 2, 0.0) == slice(0, 720)
    assert crop_of(2000, 2, 1 - 2**-53) == slice(1280, 2000)
    assert crop_of(2000, 6, 0.9) == slice(0, samples_of(6)) == slice(0, 2000)
    assert crop_of(1999, 9, 0.9) == slice(0, samples_of(5)), "all its frames: nothing is random"


def test_a_batch_is_padded_to_its_longest_clip():
    loaded = [CLIPS.load({"flac": clip(i, n)}, np.array([0.0]), 24) for i, n in enumerate((1000, 5000, 9000))]
    batch = CLIPS.masked(0, np.array([7, 8, 9]), loaded, None)
    assert batch.lengths.tolist() == [2, 15, 24]
    assert batch.inputs.shape == (3, samples_of(24)) and batch.inputs.dtype == torch.int16
    assert batch.masks[:, 0].shape == (3, 24) and batch.masks[:, 0].any(1).all()
    assert not batch.inputs[0, samples_of(2) :].any() and not batch.masks[:, 0][0, 2:].any()
    assert batch.scale.dtype == torch.float32 and batch.sample_ids.tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"flac": flac(np.zeros(719, np.int16))}, "719 samples at 16 kHz, fewer than the 720 of 2 frames"),
        ({"flac": flac(np.zeros(399, np.int16))}, "399 samples"),
        ({"flac": clip(0, 5000)[:900]}, "not decodable"),
        ({"flac": b""}, "not decodable: 0 bytes"),
        ({"txt": b"words", "cls": b"1"}, "no recording among its members: cls, txt"),
    ],
)
def test_what_cannot_be_used(members, reason):
    with pytest.raises(BadSample, match=reason):
        CLIPS.load(members, np.array([0.5]), 24)


def test_the_shortest_clip_that_can_be_used():
    assert frames(len(decode(flac(np.zeros(720, np.int16)), SPEECH, 24, 0.0).samples)) == 2
    with pytest.raises(BadSample, match=r"speech\.max_recording_seconds: 0\.1 s long by its header") as error:
        decode(flac(np.zeros(1600, np.int16)), replace(SPEECH, max_recording_seconds=0.05), 24, 0.0)
    assert error.value.kind == "too_long"


@pytest.mark.parametrize("samples", [16000, 3000])
def test_normalised_over_the_crop_it_is_the_same_crop(samples):
    members, draws = {"flac": clip(3, samples)}, np.array([0.3])
    whole = CLIPS.load(members, draws, 12)
    alone = Clips(own(with_speech(small_config("", modality="speech"), normalise="crop"))).load(members, draws, 12)
    assert np.array_equal(alone.samples, whole.samples)
    assert alone.scale == statistics(whole.samples) != whole.scale == statistics(read_audio(members["flac"]))
    with pytest.raises(BadSample, match="719 samples") as error:
        decode(clip(0, 719), replace(SPEECH, normalise="crop"), 24, 0.0)
    assert error.value.kind == "too_short"


@pytest.fixture
def config(tmp_path):
    lengths = np.random.default_rng(0).integers(3000, 20000, 64).tolist()
    return small_config(shards_of(tmp_path, lengths), batch=16, micro=4, modality="speech")


def with_speech(config, **keys):
    return replace(config, speech=replace(SPEECH, **keys))


def test_crop_to_shortest(config):
    """Published: no padding, a step's clips are as long as its shortest; others keep theirs."""
    own = [step for step in islice(open_loader(with_speech(config, crop="own"), 0, 1).steps(0), 4)]
    for world in (1, 2):
        ranks = [open_loader(with_speech(config, crop="shortest"), rank, world) for rank in range(world)]
        steps = zip(*(islice(loader.steps(0), 4) for loader in ranks), strict=True)
        for step, whole in zip(steps, own, strict=True):
            shortest = min(int(batch.lengths.min()) for batch in whole)
            batches = [batch for rank in step for batch in rank]
            assert {length for batch in batches for length in batch.lengths.tolist()} == {shortest}
    assert len({int(batch.lengths[i]) for step in own for batch in step for i in range(len(batch))}) > 4


def masked_frames(config, world, steps=2):
    """Per step: sample -> masked frames, in the order of the sorted step."""
    loaders = [open_loader(config, rank, world) for rank in range(world)]
    found = []
    for ranks in islice(zip(*(loader.steps(0) for loader in loaders), strict=True), steps):
        of_ranks = [
            [pair for b in rank for pair in zip(b.sample_ids, b.masks[:, 0].sum(1), strict=True)] for rank in ranks
        ]
        found.append({int(sample): int(n) for unit in zip(*of_ranks, strict=True) for sample, n in unit})
    return found


@pytest.mark.parametrize(("world", "micro"), [(1, 64), (1, 5), (2, 7), (4, 3)])
def test_the_same_count_in_sixteen_neighbours(config, world, micro):
    """As every rank finds them from the index alone, however the step is cut; the last ones are fewer."""
    config = replace(config, batch=replace(config.batch, global_=40, micro=micro))
    masks = [SpeechMaskConfig(start=0.3, length=2, same_count=same) for same in (False, True)]
    (free,), (trimmed,) = (masked_frames(with_speech(config, mask=mask), world, 1) for mask in masks)
    order = list(free)
    assert order == list(trimmed) and len(order) == 40
    for group in (order[:16], order[16:32], order[32:]):
        assert {trimmed[sample] for sample in group} == {min(free[sample] for sample in group)}
    assert len(set(trimmed.values())) == 3


def test_published_share_of_masked_frames_at_the_same_count(tmp_path):
    """781 frames: 0.449 where 16 clips have the same count (published batches of a GPU), 0.491 where they need not."""
    recording = flac(np.zeros(samples_of(781), np.int16))
    entry = write_shard(tmp_path / "train-000000.tar", [(f"{i:06d}", {"flac": recording}) for i in range(320)])
    save_folder_index(tmp_path, FolderIndex((entry,)))
    config = small_config(f"{tmp_path}/*.tar", batch=320, micro=32, lanes=4, window=80, modality="speech")
    for same, share in ((True, 0.449), (False, 0.491)):
        speech = SpeechConfig(max_seconds=16, mask=SpeechMaskConfig(same_count=same))
        (counts,) = masked_frames(replace(config, speech=speech), 1, 1)
        assert abs(np.mean(list(counts.values())) / 781 - share) < 0.005


def test_clips_that_cannot_be_read_leave_their_neighbours_masks_alone(tmp_path):
    """Of unknown length (0 in the index): two frames would trim sixteen clips to one masked frame."""
    shards = shards_of(tmp_path, [8000] * 16)
    rows = np.load(sidecar(tmp_path / "train-000000.tar"))
    rows["length"][3] = 0
    replace_sidecar(tmp_path / "train-000000.tar", rows)
    flip_byte(tmp_path / "train-000000.tar", int(rows["offset"][3]) + 600)
    config = small_config(shards, batch=16, micro=16, lanes=4, modality="speech")
    [batch] = next(open_loader(with_speech(config, mask=SpeechMaskConfig(same_count=True)), 0, 1).steps(0))
    assert int(batch.lengths[-1]) == 2 and int(batch.masks[:, 0][:-1].sum(1).min()) >= 10


def test_the_published_batches_do_not_depend_on_ranks(config):
    """Equal tokens, crop to the shortest and the same count together: no padding at all, and the same on any ranks."""
    config = with_speech(config, crop="shortest", mask=SpeechMaskConfig(same_count=True))
    batch = replace(config.batch, equal="tokens", micro_tokens=100)
    config = replace(config, batch=batch, data=replace(config.data, lanes=4, window=16))
    found = {}
    for world in (1, 2, 4):
        ranks = [open_loader(config, rank, world) for rank in range(world)]
        for step in islice(zip(*(loader.steps(0) for loader in ranks), strict=True), 8):
            batches = [batch for rank in step for batch in rank]
            assert len({int(n) for b in batches for n in b.lengths}) == 1 and len({len(rank) for rank in step}) == 1
            assert all(batch.masks.numel() <= 100 for batch in batches)
            rows = [
                (int(i), mask.tolist()) for b in batches for i, mask in zip(b.sample_ids, b.masks[:, 0], strict=True)
            ]
            found.setdefault(world, []).append(sorted(rows))
    assert found[1] == found[2] == found[4]
    assert len({len(rows) for rows in found[1]}) > 1, "steps of shorter clips have more of them"


def test_a_replacement_is_cropped_to_its_place(tmp_path):
    """A clip that is too short is replaced by one that may be long: it must not need more memory than its place."""
    lengths = [*[2000] * 20, *[8000] * 20, 500]  # 6, 24 and 1 frames
    config = small_config(shards_of(tmp_path, lengths), batch=8, micro=8, lanes=1, window=40, modality="speech")
    batches = [step[0] for step in islice(open_loader(config, 0, 1).steps(0), 25)]
    found = {(int(i) >= 20, int(n)) for batch in batches for i, n in zip(batch.sample_ids, batch.lengths, strict=True)}
    assert {(False, 6), (True, 24)} < found <= {(False, 6), (True, 24), (False, 2), (True, 2)}


@pytest.mark.parametrize("known", [True, False])
def test_replacements_keep_micro_batches_to_their_budget(tmp_path, known):
    """Four of the short clips are damaged, of known length or not (0 in the index): long ones come in their place."""
    shards = shards_of(tmp_path, [8000] * 4 + [2000] * 28)  # 24 and 6 frames
    tar = tmp_path / "train-000000.tar"
    rows = np.load(sidecar(tar))
    bad = [5, 6, 17, 30]
    if not known:
        rows["length"][bad] = 0
    replace_sidecar(tar, rows)
    for sample in bad:
        flip_byte(tar, int(rows["offset"][sample]) + 600)
    found = {}
    for world in (1, 2):
        config = small_config(shards, batch=32, micro=32, lanes=4, window=8, modality="speech", micro_tokens=60)
        loaders = [open_loader(config, rank, world) for rank in range(world)]
        batches = [batch for step in counted_steps(loaders, 20) for rank in step for batch in rank]
        assert [loader.bad.replaced for loader in loaders] == [20 * len(bad)] * world
        assert max(batch.masks.numel() for batch in batches) <= 60
        pairs = [zip(b.sample_ids.tolist(), b.lengths.tolist(), strict=True) for b in batches]
        found[world] = sorted(pair for of_batch in pairs for pair in of_batch)
    assert found[1] == found[2]
    assert any(sample < 4 and length < 24 for sample, length in found[1]), "a long one in the place of a short one"


def test_damaged_lengths_in_the_index_do_not_shorten_a_step(tmp_path):
    """A recording of unknown length (0 in the index) is no shortest clip."""
    shards = shards_of(tmp_path, [8000] * 15)
    entry = write_shard(tmp_path / "train-000001.tar", [("bad", {"flac": b"no audio"})])
    first = write_shard(tmp_path / "train-000000.tar", [(f"{i:06d}", {"flac": clip(i, 8000)}) for i in range(15)])
    save_folder_index(tmp_path, FolderIndex((first, entry)))
    config = with_speech(small_config(shards, batch=16, micro=16, lanes=4, modality="speech"), crop="shortest")
    [batch] = next(open_loader(config, 0, 1).steps(0))
    assert batch.lengths.tolist() == [24] * 16


def test_an_evaluation_takes_the_middle(tmp_path):
    whole = read_audio(clip(0, 12000))
    loaded = CLIPS.load_whole({"flac": clip(0, 12000)})
    assert frames(8000) == 24 and np.array_equal(loaded.samples, whole[2120:9880])


def test_shards_of_speech_are_read_in_any_worker(tmp_path):
    pattern = make_shards(tmp_path, (20,), modality="speech")
    config = small_config(pattern, batch=4, micro=2, workers=1, modality="speech")
    step = next(open_loader(config, 0, 1).steps(0))
    assert {batch.modality for batch in step} == {"speech"}

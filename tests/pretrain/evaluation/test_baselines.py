"""Features that need no network."""

import math

import torch

from data_shards.batch import BOS, EOS, PAD, MaskedBatch, TokenSpan
from data_shards.showing.log_mel import MELS, log_mel
from pretrain.evaluation.baselines import log_mel_statistics, pixels, tf_idf
from tests.pretrain.reporting.test_pictures import clips


def test_pixels_are_averaged_down_and_grey_is_counted_once():
    grey = torch.arange(28 * 28).remainder(256).to(torch.uint8).view(1, 1, 28, 28).expand(2, 3, 28, 28)
    assert torch.equal(pixels(grey), grey[:, 0].flatten(1) / 255)
    colour = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)
    colour[:, 0, ::2] = 255  # every second row red: half red
    assert pixels(colour).shape == (2, 3 * 32 * 32)
    assert pixels(colour)[:, :1024].eq(0.5).all() and pixels(colour)[:, 1024:].eq(0).all()


def test_log_mel_statistics_are_of_the_real_frames():
    batch = clips()
    bands = log_mel(batch)
    expected = [torch.cat([b[:n].mean(0), b[:n].std(0, unbiased=False)]) for b, n in zip(bands, (20, 12), strict=True)]
    got = log_mel_statistics(batch)
    assert got.shape == (2, 2 * MELS)
    assert torch.allclose(got, torch.stack(expected), atol=1e-4)


def test_tf_idf_weighs_rare_subwords_of_the_reference_and_ignores_special_ones():
    def texts(rows: list[list[int]]) -> MaskedBatch:
        padded = [row + [PAD] * (6 - len(row)) for row in rows]
        ids = torch.tensor(padded, dtype=torch.int32)
        return MaskedBatch(
            modality="text",
            inputs=ids,
            lengths=torch.tensor([len(r) for r in rows]),
            sample_ids=torch.arange(len(rows)),
            masks=(ids < 0)[:, None],
            span=TokenSpan(1, 1),
        )

    train = texts([[BOS, 7, 7, 9, EOS], [BOS, 7, EOS], [BOS, 7, 8, EOS]])
    test = texts([[BOS, 9, 50, EOS], [BOS, 50, EOS]])  # 50 is not in the reference
    seen, new = tf_idf(train, test)
    common, rare = 1.0, math.log(4 / 2) + 1  # in all three texts; in one
    assert seen.shape == (3, 3) and torch.allclose(seen.norm(dim=1), torch.ones(3))
    assert torch.allclose(seen[0], torch.tensor([2 * common, 0.0, rare]) / math.hypot(2 * common, rare))
    assert new.tolist() == [[0, 0, 1], [0, 0, 0]]

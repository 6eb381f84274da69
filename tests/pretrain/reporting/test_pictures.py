"""What pictures show: images, spectrograms and texts with their masked parts marked."""

import math
from dataclasses import replace

import torch

from configs.signals import samples_of
from data_shards.batch import BOS, EOS, FRAME_STRIDE, PAD, RECEPTIVE_FIELD, MaskedBatch, TokenSpan
from data_shards.showing.log_mel import MELS
from data_shards.text.tokenizer import train_tokenizer
from pretrain.reporting.pictures import images_picture, spectrograms_picture, texts_markdown

IDENTITY = torch.eye(3, 4)


TOKENIZER = train_tokenizer(["the cat sat on the mat"] * 4, vocab_size=300)


MASK = TOKENIZER.vocab_size - 1


def image_batch(inputs: torch.Tensor, mask: torch.Tensor, color: torch.Tensor = IDENTITY) -> MaskedBatch:
    count, tokens = len(inputs), mask.shape[-1]
    return MaskedBatch(
        modality="vision",
        inputs=inputs,
        lengths=torch.full((count,), tokens),
        sample_ids=torch.arange(count),
        color=color.expand(count, 3, 4),
        masks=mask.expand(count, -1)[:, None],
    )


def clips() -> MaskedBatch:
    """Tones of 500 and 4,000 Hz, of 20 and 12 frames; frames 5 to 9 are masked."""
    lengths = torch.tensor([20, 12])
    seconds = torch.arange(samples_of(20)) / 16_000
    tones = torch.stack([(2 * math.pi * hertz * seconds).sin() for hertz in (500, 4000)])
    frame = torch.arange(20)
    return MaskedBatch(
        modality="speech",
        inputs=(tones * 8000 + 300).to(torch.int16),
        lengths=lengths,
        sample_ids=torch.arange(2),
        scale=torch.tensor([[300.0, 1 / 5657]]).expand(2, 2),
        masks=((frame >= 5) & (frame < 10)).expand(2, -1)[:, None],
        span=TokenSpan(RECEPTIVE_FIELD, FRAME_STRIDE),
    )


def texts() -> MaskedBatch:
    """`the cat sat`, `cat` masked and `sat` replaced by `mat`; and `a*b`, shorter."""
    whole = [[BOS, *TOKENIZER.encode(text), EOS] for text in ("the cat sat", "a*b")]
    length = max(map(len, whole))
    inputs = torch.tensor([ids + [PAD] * (length - len(ids)) for ids in whole], dtype=torch.int32)
    (cat,), (sat,), (mat,) = (TOKENIZER.encode(word) for word in (" cat", " sat", " mat"))
    mask = inputs == cat
    corrupted = torch.where(mask, MASK, torch.where(inputs == sat, mat, inputs)).int()
    lengths = torch.tensor([len(ids) for ids in whole])
    return MaskedBatch(
        modality="text",
        inputs=inputs,
        lengths=lengths,
        sample_ids=torch.arange(2),
        corrupted=corrupted[:, None],
        masks=mask[:, None],
        span=TokenSpan(1, 1),
    )


def test_picture_shows_images_above_and_hides_masked_patches_below():
    images = torch.full((10, 3, 28, 28), 200, dtype=torch.uint8)
    mask = torch.zeros(49, dtype=torch.bool)
    mask[8] = True  # row 1, column 1
    picture = images_picture(image_batch(images, mask))
    assert picture.dtype == torch.uint8 and picture.shape == (3, 2 * 116, 8 * 116)  # 28 enlarged to 112, frames of 2
    above, below = picture.split(116, dim=1)
    changed = (above != below).any(0)
    assert changed[18:34, 18:34].all() and changed.sum() == 8 * 16 * 16  # one patch of 4 x 4 pixels, 4 times enlarged
    assert above[:, 2:114, 2:114].eq(200).all() and above[:, :2].eq(255).all()
    assert len(below[:, 18:34, 18:34].unique()) == 2  # grey, striped


def test_large_images_keep_their_size():
    images = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    assert images_picture(image_batch(images, torch.zeros(196, dtype=torch.bool))).shape == (3, 2 * 228, 228)


def test_spectrograms_have_their_masked_frames_shaded_and_white_behind_their_end():
    picture = spectrograms_picture(clips())
    height = 2 * MELS + 4
    assert picture.dtype == torch.uint8 and picture.shape == (3, 2 * height, 2 * 20)
    long, short = picture[:, : 2 * MELS].int(), picture[:, height : height + 2 * MELS].int()
    for clip in (long, short):
        coloured = (clip[0] != clip[2]).all(0)  # grey has equal channels, the shade has not
        assert coloured.nonzero().flatten().tolist() == list(range(10, 20))
    assert short[:, :, 24:].eq(255).all() and not long[:, :, 24:].eq(255).all()
    bright = long[0, :, 0].argmax()
    assert bright > 2 * MELS * 0.6 > short[0, :, 0].argmax()  # low tones are at the bottom


def test_texts_have_their_masked_and_replaced_tokens_marked():
    legend, _, first, second = texts_markdown(texts(), TOKENIZER).splitlines()
    assert "masked" in legend and "seen → true" in legend
    assert first == "1. &lt;s&gt;the**⟦ cat⟧***⟨ mat →  sat⟩*&lt;/s&gt;"
    assert second == r"2. &lt;s&gt;a\*b&lt;/s&gt;"  # no <pad>; markdown's signs are text


def test_further_masks_of_the_first_image_stand_in_a_third_row():
    images = torch.full((3, 3, 28, 28), 200, dtype=torch.uint8)
    masks = torch.zeros(3, 2, 49, dtype=torch.bool)
    masks[:, 0, 8] = masks[0, 1, 0] = True
    picture = images_picture(replace(image_batch(images, masks[0, 0]), masks=masks))
    above, _, more = picture.split(116, dim=1)
    changed = (above != more).any(0)[:, :116]
    assert picture.shape == (3, 3 * 116, 3 * 116) and changed[2:18, 2:18].all() and changed.sum() == 256
    assert more[:, :, 116:].eq(255).all(), "one further mask alone"


def test_texts_without_a_corrupted_form_mark_their_hidden_tokens():
    batch = replace(texts(), corrupted=None)
    marked = texts_markdown(batch, TOKENIZER)
    assert "**⟦ cat⟧**" in marked and "→" not in marked.split("\n", 1)[1]


def test_the_loss_of_each_patch_is_a_colour_from_black_to_white():
    images = torch.full((3, 3, 28, 28), 200, dtype=torch.uint8)
    masks = torch.zeros(3, 2, 49, dtype=torch.bool)
    masks[:, 0, [0, 1, 2]] = masks[0, 1, 48] = True
    errors = torch.zeros(3, 2, 49)
    errors[:, 0, :3], errors[0, 1, 48] = torch.tensor([3.0, 1.0, 1e-4]), 7.0
    batch = replace(image_batch(images, masks[0, 0]), masks=masks)
    picture = images_picture(batch, errors)
    assert picture.shape == (3, 5 * 116, 3 * 116)
    _, _, losses, _, further = picture.split(116, dim=1)
    at = [losses[:, 10, 2 + 8 + 16 * column].tolist() for column in range(4)]
    assert at == [[255, 255, 255], [255, 0, 0], [0, 0, 0], [227, 227, 227]], (
        "the largest, a third, next to nothing, none"
    )
    assert further[:, 106, 106].tolist() == [255, 255, 255] and further[:, 10, 10].tolist() == [227, 227, 227]
    assert torch.equal(picture[:, : 2 * 116], images_picture(batch)[:, : 2 * 116])


def test_the_loss_of_each_frame_is_a_strip_below_the_clip():
    batch = clips()
    errors = torch.where(batch.masks, 1.0, 0.0)
    errors[0, 0, 5] = 3.0
    picture = spectrograms_picture(batch, errors)
    height = 2 * MELS + 10 + 4
    assert picture.shape == (3, 2 * height, 40)
    strip = picture[:, 2 * MELS + 5]
    assert [strip[:, 2 * frame].tolist() for frame in (4, 5, 6)] == [[255, 255, 255], [255, 255, 255], [255, 0, 0]]


def test_the_loss_of_each_token_stands_behind_it_by_the_mean():
    batch = texts()
    errors = torch.where(batch.masks, 8.0, 0.0)
    legend, _, first, _ = texts_markdown(batch, TOKENIZER, errors).splitlines()
    assert "**⟦ cat⟧** (1.00)" in first and legend.endswith("behind it the loss by the mean")

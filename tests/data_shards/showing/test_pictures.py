"""Pictures of single samples, their colours as the model makes them."""

import torch

from data_shards.showing.log_mel import MELS
from data_shards.showing.pictures import images, jitter_colors, spectrograms
from models.vision import normalise
from tests.pretrain.reporting.test_pictures import clips, image_batch


def test_colors_are_jittered_as_the_affine_map_says_and_clamped():
    image = torch.tensor([51, 102, 255], dtype=torch.uint8).view(1, 3, 1, 1)  # 0.2, 0.4, 1.0
    color = torch.tensor([[[0.0, 1.0, 0.0, 0.2], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5]]])
    assert jitter_colors(image, color).flatten().tolist() == [153, 102, 255]
    color[0, 0, 3] = -1.0
    assert jitter_colors(image, color)[0, 0].item() == 0


def test_colors_are_those_that_the_model_sees():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (3, 3, 8, 8), dtype=torch.uint8, generator=generator)
    color = torch.eye(3, 4) + 0.4 * torch.randn(3, 3, 4, generator=generator)
    seen = normalise(pixels, color, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), torch.float32)
    assert torch.equal(jitter_colors(pixels, color), (seen * 255).round().to(torch.uint8))


def test_masked_patches_are_hatched_and_nothing_else_changes():
    mask = torch.zeros(49, dtype=torch.bool)
    mask[8] = True  # row 1, column 1
    whole, masked = images(image_batch(torch.full((2, 3, 28, 28), 200, dtype=torch.uint8), mask))
    assert whole.shape == masked.shape == (2, 3, 112, 112)  # enlarged four times
    changed = (whole != masked).any(1)
    assert changed[:, 16:32, 16:32].all() and changed.sum() == 2 * 16 * 16


def test_masked_frames_are_shaded_and_nothing_else_changes():
    whole, masked = spectrograms(clips())
    assert whole.shape == masked.shape == (2, 3, 2 * MELS, 40)
    changed = (whole != masked).any(1).any(1)
    assert changed[0].nonzero().flatten().tolist() == list(range(10, 20))  # two pixels a frame

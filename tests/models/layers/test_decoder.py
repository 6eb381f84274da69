import pytest
import torch
import torch.nn.functional as F

from models.layers.decoder import NOISE, Decoder
from models.layers.masked import masked_of
from models.layers.noise import normal_noise
from tests.models.common import MODALITIES, random_batch, randomise, tiny_config


def decoder_of(modality):
    config = tiny_config(modality=modality, objective="v2")
    own = config.for_modality(modality)
    decoder = Decoder(own.model.width, own.decoder, own.vision.grid if modality == "vision" else 0).eval()
    randomise(decoder)
    return config, own.decoder, decoder


@pytest.mark.parametrize("modality", MODALITIES)
def test_predictions_against_a_plain_implementation(modality):
    """Each mask alone, without padding: visible outputs in their places, noise elsewhere, one layer after another."""
    config, sizes, decoder = decoder_of(modality)
    batch = random_batch(config)
    masked = masked_of(batch)
    x = torch.randn(*masked.visible.shape, 32)
    got = decoder(x, masked, batch.noise_keys.flatten())
    for n, mask in enumerate(batch.masks.flatten(0, 1)):
        length = int(batch.lengths[n // 3])
        hidden = mask.nonzero().flatten()
        seen = int(length - mask.sum())
        whole = torch.empty(length, 32)
        whole[~mask[:length]] = x[n, :seen]
        key = batch.noise_keys.flatten()[n : n + 1]
        whole[hidden] = normal_noise(key, hidden[None], 32, NOISE, torch.float32)[0]
        for layer in decoder.layers:
            grid = whole.T.view(1, -1, 4, 4) if modality == "vision" else whole.T[None]
            y = layer.conv(grid).flatten(2)[0].T
            y = F.gelu(F.layer_norm(y, y.shape[-1:]))
            whole = y + whole if sizes.residual and y.shape == whole.shape else y
        expected = decoder.project(whole[hidden])
        torch.testing.assert_close(got[n, : len(hidden)], expected, rtol=1e-4, atol=1e-5)


def test_sizes_are_those_of_the_keys():
    for modality, hidden in (("vision", 0), ("text", 64)):
        _, sizes, decoder = decoder_of(modality)
        assert len(decoder.layers) == 3 and sizes.hidden == hidden
        first, second = (layer.conv.weight.shape for layer in decoder.layers[:2])
        kernel = (3, 3) if modality == "vision" else (9,)
        assert first == (32, 8, *kernel) and second == first
        assert [m.out_features for m in decoder.project if hasattr(m, "out_features")] == ([64, 32] if hidden else [32])


def test_only_the_input_is_dropped_and_only_in_training():
    config, _, decoder = decoder_of("text")
    batch = random_batch(config)
    masked = masked_of(batch)
    x, keys = torch.randn(*masked.visible.shape, 32), batch.noise_keys.flatten()
    once, again = (decoder.eval()(x, masked, keys) for _ in range(2))
    assert torch.equal(once, again)
    decoder.train()
    assert not torch.equal(decoder(x, masked, keys), once)
    decoder.rate = 0.0
    assert torch.equal(decoder(x, masked, keys), once)

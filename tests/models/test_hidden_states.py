"""Across networks and huggingface/. Every hidden state of ours beside Transformers' with the same weights."""

import pytest
import torch

from configs.schema import PretrainConfig
from configs.signals import samples_of
from data_shards.batch import MaskedBatch
from models.data2vec import Data2Vec
from models.huggingface import save_pretrained
from models.layers.masked import real_tokens
from models.network import Network
from tests.models.common import MODALITIES, base_config, random_batch, randomise, tiny_config

transformers = pytest.importorskip("transformers")

FRAMES = (18, 23, 12)


def make_batch(config: PretrainConfig, leaky: bool) -> MaskedBatch:
    """Padded, but for images."""
    config.speech.leaky_positions = leaky
    return random_batch(config, 3, lengths=None if config.modality == "vision" else FRAMES)


def of_transformers(model: torch.nn.Module, network: Network, batch: MaskedBatch, masked: bool) -> list[torch.Tensor]:
    """Hidden states after each block, then the last one as the model returns it."""
    seen, whole = network.student_teacher_inputs(batch)
    match batch.modality:
        case "vision":
            p, g = network.config.patch_size, network.config.grid
            images = whole.view(-1, g, g, 3, p, p).permute(0, 3, 1, 4, 2, 5).reshape(batch.inputs.shape)
            inputs = {"pixel_values": images, "bool_masked_pos": batch.masks[:, 0] if masked else None}
        case "speech":
            samples = torch.tensor([samples_of(int(frames)) for frames in batch.lengths])
            real = real_tokens(samples, whole.shape[1])
            inputs = {"input_values": whole * real, "attention_mask": real.long()}
            inputs["mask_time_indices"] = batch.masks[:, 0] if masked else None
        case "text":
            real = real_tokens(batch.lengths, whole.shape[1])
            inputs = {"input_ids": (seen if masked else whole).long(), "attention_mask": real.long()}
    outputs = model(**inputs, output_hidden_states=True)
    return [*outputs.hidden_states[1:], outputs.last_hidden_state]


def of_ours(network: Network, batch: MaskedBatch, masked: bool) -> list[torch.Tensor]:
    x = network.embed(network.student_teacher_inputs(batch)[0 if masked else 1])
    mask = batch.masks[:, 0] if masked else None
    outputs = network(x, batch.lengths, mask, top=len(network.encoder.blocks))
    return [*outputs, outputs[-1] if network.norm is None else network.norm(outputs[-1])]


@pytest.mark.parametrize("size", ["tiny", pytest.param("base", marks=pytest.mark.slow)])
@pytest.mark.parametrize("modality", MODALITIES)
@torch.no_grad()
def test_hidden_states_equal_transformers(tmp_path, modality, size):
    """To 1e-5 of their scale, with and without mask, padded; speech with the padding that Transformers lets through."""
    config = tiny_config(modality=modality) if size == "tiny" else base_config(modality)
    network, theirs = pair(tmp_path, config, 0.2 if size == "tiny" else 0.03)
    check(theirs, network, make_batch(config, leaky=True))


@pytest.mark.parametrize("modality", ["speech", "text"])
@torch.no_grad()
def test_deep_norm_folds_into_transformers_blocks(tmp_path, modality):
    config = tiny_config(modality=modality, norm="deep")
    network, theirs = pair(tmp_path, config, 0.2)
    # The norm's epsilon does not fold: it counts alpha squared times as much beside the smaller variance.
    check(theirs, network, make_batch(config, leaky=True), tolerance=1e-4)


@torch.no_grad()
def test_a_padded_clip_is_what_transformers_makes_of_it_alone(tmp_path):
    """Without `leaky_positions`: batched with others here, alone there."""
    config = tiny_config(modality="speech")
    network, theirs = pair(tmp_path, config, 0.2)
    network.positions.leaky = False
    batch = make_batch(config, leaky=False)
    ours = of_ours(network, batch, masked=True)
    for i in range(3):
        alone = batch.take(torch.tensor([i]))
        for mine, other in zip(ours, of_transformers(theirs, network, alone, masked=True), strict=True):
            assert difference(mine[i : i + 1, : FRAMES[i]], other) < 1e-5
    with_others = of_transformers(theirs, network, batch, masked=True)
    assert difference(ours[-1][2, : FRAMES[2]], with_others[-1][2, : FRAMES[2]]) > 1e-3  # the leak is real


def pair(folder, config: PretrainConfig, std: float) -> tuple[Network, torch.nn.Module]:
    """Our network, and Transformers' with its exported weights."""
    config.speech.leaky_positions = True
    network = Data2Vec(config).eval().student
    randomise(network, std=std)
    save_pretrained(folder, network.state_dict(), config.for_modality(config.modality))
    theirs, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} <= {"pooler"}
    assert set(report["unexpected_keys"]) <= {"lm_head.bias"}
    return network, theirs.eval()


def check(theirs: torch.nn.Module, network: Network, batch: MaskedBatch, tolerance: float = 1e-5) -> None:
    real = real_tokens(batch.lengths + network.prefix, batch.masks[:, 0].shape[1] + network.prefix)
    for masked in (False, True):
        pairs = zip(of_ours(network, batch, masked), of_transformers(theirs, network, batch, masked), strict=True)
        differences = [difference(ours[real], reference[real]) for ours, reference in pairs]
        assert max(differences) < tolerance, differences


def difference(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())

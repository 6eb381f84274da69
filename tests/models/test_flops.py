import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import PretrainConfig
from configs.schema_training import MixtureConfig, ModelConfig
from models.data2vec import Data2Vec
from models.flops import flops, parameters
from tests.models.common import MODALITIES, base_config, random_batch, tiny_config


@pytest.mark.parametrize(
    ("modality", "beside", "millions"),
    [
        ("vision", 768 * 768 + 2 * 768, 85.67),  # the mask vector too, which the published models do not have
        ("speech", 768 * 768 + 768, 93.16),
        ("text", 4 * 768 * 768 + 3 * 768, 124.05),
    ],
)
def test_published_sizes(modality, beside: int, millions: float):
    """The sizes of the published models as Transformers builds them, which have no regression head."""
    assert round((parameters(base_config(modality)) - beside) / 1e6, 2) == millions


def test_large_vision_has_the_published_size():
    config = PretrainConfig(model=ModelConfig(layers=24, width=1024, heads=16, ffn=4096, layer_scale=1e-5))
    assert round((parameters(config) - 1024 * 1024 - 2 * 1024) / 1e6, 1) == 303.1


@pytest.mark.parametrize("blocks", ["shared", "separate"])
def test_a_mixture_counts_shared_blocks_once(blocks):
    config = tiny_config(modality=MODALITIES)
    config.mixture = MixtureConfig(blocks=blocks)
    student = Data2Vec(config).student
    assert parameters(config) == sum(parameter.numel() for parameter in student.parameters())
    assert len(list(student.modules())) > len(list(Data2Vec(tiny_config()).student.modules()))


@pytest.mark.parametrize("average", ["all", "transformer", "blocks"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_flops_are_those_that_torch_counts(modality, average):
    """torch counts the products of the running model; attention runs as plain batched products here."""
    config = tiny_config(modality=modality)
    config.teacher.average = average
    config.speech.position_groups = 1  # torch miscounts the gradient of a grouped convolution's weight
    tokens = config.vision.tokens if modality == "vision" else 12
    batch = random_batch(config, lengths=[tokens] * 4, masked=6)
    with FlopCounterMode(display=False) as counter:
        Data2Vec(config).eval()(batch, torch.tensor(24)).loss.backward()
    colour = 2 * 3 * 3 * 16 * 16 if modality == "vision" else 0  # products that are not the model's: the colour map,
    moments = 2 * 2 * 2 * 6 * 32  # and the sums over targets and predictions
    expected = flops(config.for_modality(modality), [tokens] * 4, [6] * 4)
    assert counter.get_total_flops() == expected + 4 * (colour + moments)


def test_samples_add_up_and_padding_costs_nothing():
    part = tiny_config(modality="speech").for_modality("speech")
    assert flops(part, [10, 15], [3, 5]) == flops(part, [10], [3]) + flops(part, [15], [5])


def test_depth_that_is_dropped_is_saved():
    def of(**model) -> float:
        return flops(base_config(**model).for_modality("vision"), [196], [120])

    assert 0.89 < of(drop_path=0.25) / of() < 0.91  # an eighth of three quarters
    assert 0.96 < of(layer_drop=0.05) / of() < 0.97

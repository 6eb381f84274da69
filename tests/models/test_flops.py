import torch
from torch.utils.flop_counter import FlopCounterMode

from configs.schema import ModelConfig, PretrainConfig
from models.data2vec import Data2Vec
from models.flops import flops_per_sample, parameters
from tests.models.common import base_config, random_batch, tiny_config


def hugging_face_count(config: PretrainConfig) -> int:
    """Without regression head and mask vector, which the published models do not have."""
    width = config.model.width
    return parameters(config) - (width * width + width) - width


def test_parameters_are_those_of_the_module():
    for config in (tiny_config(), tiny_config(layer_scale=0.0)):
        student = Data2Vec(config).student
        assert parameters(config) == sum(parameter.numel() for parameter in student.parameters())


def test_published_sizes():
    """data2vec.md, head of the file: 85.67 M and 303.1 M."""
    large = PretrainConfig(model=ModelConfig(layers=24, width=1024, heads=16, ffn=4096, layer_scale=1e-5))
    assert round(hugging_face_count(base_config()) / 1e6, 2) == 85.67
    assert round(hugging_face_count(large) / 1e6, 1) == 303.1


def test_flops_are_those_that_torch_counts():
    """torch counts the products of the running model; attention runs as plain batched products here."""
    config = tiny_config()
    model = Data2Vec(config)
    with FlopCounterMode(display=False) as counter:
        model(random_batch(config), torch.tensor(24)).loss.backward()
    counted = counter.get_total_flops() / 4
    colour = 2 * 3 * 3 * 16 * 16  # products that are not the model's: the colour map,
    moments = 2 * 2 * 2 * 6 * 32  # and the sums over targets and predictions
    assert counted == flops_per_sample(config) + colour + moments


def test_stochastic_depth_saves_what_it_drops():
    full, dropped = (flops_per_sample(base_config(drop_path=rate)) for rate in (0.0, 0.25))
    assert 0.89 < dropped / full < 0.91  # an eighth of three quarters

"""What is named where a step is not finite, on one rank; real engines in every stage are in tests/integration."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from models.data2vec import Data2Vec
from models.layers.blocks import Block
from pretrain.engine.layout import Fragment
from pretrain.health.non_finite import NOWHERE, first_not_finite
from tests.models.common import MODALITIES, random_batch, tiny_config


def engine(modality="speech", **model):
    """What is asked of an engine: one partition per parameter, as in ZeRO 0."""
    network = Data2Vec(tiny_config(modality=modality, **model)).train()
    parameters = dict(network.student.named_parameters())
    fragments = [Fragment(name, i, 0, 0, p.numel()) for i, (name, p) in enumerate(parameters.items())]
    flat = [parameter.detach().view(-1) for parameter in parameters.values()]
    return SimpleNamespace(
        model=network,
        deepspeed=network,
        partitions=SimpleNamespace(fragments=fragments, local=lambda weights: flat),
        counts=lambda batches: torch.tensor([sum(int(batch.masks.sum()) for batch in batches)]),
        inputs=lambda batches, index, masked, step: (batches[index], masked, step),
    )


def poison(made, name: str):
    module = made.model.get_submodule(name)
    return module.register_forward_hook(lambda module, inputs, output: output * float("nan"))


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_first_module_in_the_order_of_the_forward_pass_is_named_and_nothing_is_left(modality):
    made = engine(modality)
    batches = [random_batch(made.model.config, seed=seed) for seed in (0, 1)]
    for name in ("student.encoder.blocks.1.feed_forward.fc1", "student.encoder.blocks.2.norm1"):
        hook = poison(made, name)
        found = first_not_finite(made, batches, 3)
        hook.remove()
        assert found == f"the output of {name}"
    assert first_not_finite(made, batches, 3) == NOWHERE
    assert not any(module._forward_hooks for module in made.model.modules())
    assert all(parameter.grad is None for parameter in made.model.parameters())


def test_a_weight_is_named_before_what_it_makes():
    made = engine()
    with torch.no_grad():
        made.model.student.encoder.blocks[1].attention.proj.weight[3, 4] = float("inf")
    found = first_not_finite(made, [random_batch(made.model.config)], 3)
    assert found == "the weight student.encoder.blocks.1.attention.proj.weight itself"


def test_the_data_are_named():
    made = engine()
    batch = random_batch(made.model.config)
    silent = replace(batch, scale=torch.tensor([[0.0, float("inf")]]).repeat(4, 1))
    assert first_not_finite(made, [batch, silent], 3) == "the scale of a speech sample in the batch"


def test_compiled_blocks_are_watched_too():
    made = engine("vision", compile=True)
    for module in made.model.modules():
        if isinstance(module, Block):
            module.compile(backend="eager")
    batch = random_batch(made.model.config)
    made.model(batch, batch.masks.sum())
    hook = poison(made, "student.encoder.blocks.1.feed_forward.fc1")
    assert first_not_finite(made, [batch], 3) == "the output of student.encoder.blocks.1.feed_forward.fc1"
    hook.remove()

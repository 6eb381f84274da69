from dataclasses import replace

import pytest
import torch
from torch import nn

from configs.schema import PretrainConfig
from configs.schema_modalities import MODALITIES
from configs.schema_training import MixtureConfig
from models.data2vec import Data2Vec, part_state
from tests.models.common import random_batch, randomise, tiny_config

BLOCKS = {"encoder.blocks.0.norm1.weight", "encoder.blocks.2.attention.qkv.weight"}
CASES = [  # modality, what is averaged; examples of what is, and the children that are not
    ("vision", "all", BLOCKS | {"tokens.mask", "head.weight", "norm.weight"}, ()),
    ("vision", "transformer", BLOCKS | {"positions.table", "norm.weight"}, ("patch_embedding", "tokens", "head")),
    ("speech", "all", BLOCKS | {"masking.vector", "feature_encoder.layers.6.conv.weight", "head.weight"}, ()),
    ("speech", "transformer", BLOCKS | {"positions.layers.0.conv.bias", "encoder.norm.weight"},
     ("feature_encoder", "projection", "masking", "head")),
    ("speech", "blocks", BLOCKS | {"encoder.norm.weight"},
     ("feature_encoder", "projection", "masking", "positions", "head")),
    ("text", "all", BLOCKS | {"embedding.weight", "positions.weight", "norm_embeddings.bias", "head.fc2.weight"}, ()),
    ("text", "transformer", BLOCKS | {"positions.weight", "norm_embeddings.bias"}, ("embedding", "head")),
    ("text", "blocks", BLOCKS, ("embedding", "positions", "norm_embeddings", "head")),
]  # fmt: skip


def mixture(blocks: str = "shared", **model) -> PretrainConfig:
    config = tiny_config(modality=MODALITIES, **model)
    config.mixture = MixtureConfig(blocks=blocks)
    return config


@pytest.mark.parametrize(("modality", "average", "averaged", "shared"), CASES)
def test_what_the_teacher_does_not_average_is_the_students_own(modality, average, averaged, shared):
    config = tiny_config(modality=modality)
    config.teacher.average = average
    model = Data2Vec(config).train()
    tracked = {name for name, _, _ in model.tracked()}
    assert averaged <= tracked
    children = {name.split(".")[0] for name in model.student.state_dict()}
    assert children - set(shared) == {name.split(".")[0] for name in tracked}
    assert set(model.teacher.state_dict()) == tracked
    for child in shared:
        own = getattr(model.student, child)
        assert getattr(model.teacher, child) is own and own.training
        assert all(parameter.requires_grad for parameter in own.parameters())
    groups = model.parameter_groups()
    ids = {id(parameter) for group in groups if group["teacher"] for parameter in group["params"]}
    assert ids == {id(student) for _, student, _ in model.tracked()}


def test_shared_local_features_are_computed_once():
    model = Data2Vec(tiny_config(modality="speech"))
    calls = []
    model.student.feature_encoder.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    seen, whole = model.embed(random_batch(model.config))
    assert calls == [True] and torch.equal(seen, whole) and seen.requires_grad and not whole.requires_grad


@pytest.mark.parametrize("blocks", ["shared", "separate"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_a_part_of_a_mixture_is_a_model_of_that_modality(modality, blocks):
    """Its state, under the names of a run of that modality alone, gives the same loss there."""
    config = mixture(blocks, norm=None if blocks == "separate" else "post", dropout=0.0, attention_dropout=0.0)
    model = Data2Vec(config)
    randomise(model.student)
    model.teacher.load_state_dict({name: model.student.state_dict()[name] for name in model.teacher.state_dict()})
    norm = config.for_modality(modality).model.norm
    alone = Data2Vec(replace(config, modality=modality, model=replace(config.model, norm=norm)))
    state = part_state(model.student.state_dict(), config, modality)
    extra = {name for name in state if "k_bias" in name} if modality == "vision" else set()
    missing, unexpected = alone.student.load_state_dict(state, strict=False)
    assert not missing and set(unexpected) == (extra if blocks == "shared" else set())
    alone.teacher.load_state_dict({name: alone.student.state_dict()[name] for name in alone.teacher.state_dict()})
    batch = random_batch(config, modality=modality)
    losses = [float(each.eval()(batch, batch.masks.sum()).loss.detach()) for each in (model, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_shared_blocks_are_one_and_belong_to_all():
    model = Data2Vec(mixture())
    names = [name for name, _ in model.student.named_parameters()]
    assert {name.split(".")[0] for name in names} == {*MODALITIES, "blocks"}
    assert not [name for name in names if "encoder.blocks" in name]
    for networks in (model.student, model.teacher):
        assert all(networks[modality].encoder.blocks is networks["blocks"] for modality in MODALITIES)
    assert model.student["blocks"] is not model.teacher["blocks"]
    assert not any(parameter.requires_grad for parameter in model.teacher["blocks"].parameters())
    assert model.student["blocks"][0].attention.qkv.k_bias is None  # pre-norm blocks are vision's
    assert Data2Vec(mixture(norm="post")).student["blocks"][0].attention.qkv.k_bias is not None


@pytest.mark.parametrize("blocks", ["shared", "separate"])
def test_a_step_moves_its_modality_and_what_is_shared(blocks):
    """Groups name the only modality that gives their parameters gradients."""
    model = Data2Vec(mixture(blocks))
    groups = model.parameter_groups()
    assert sum(len(group["params"]) for group in groups) == len(list(model.student.parameters()))
    assert {group["modality"] for group in groups} == {*MODALITIES, *([None] if blocks == "shared" else [])}
    for modality in MODALITIES:
        model.zero_grad()
        batch = random_batch(model.config, modality=modality)
        model(batch, batch.masks.sum()).loss.backward()
        for group in groups:
            moved = [parameter.grad is not None for parameter in group["params"]]
            assert all(moved) if group["modality"] in (None, modality) else not any(moved)


def test_dropout_of_shared_blocks_is_that_of_the_modality():
    """Null rates: none for images, a tenth for the others."""
    model = Data2Vec(mixture()).train()
    for modality in MODALITIES:
        batch = random_batch(model.config, modality=modality)
        first, second = (float(model(batch, batch.masks.sum()).loss.detach()) for _ in range(2))
        assert (first == second) == (modality == "vision")


def test_modes_of_the_teacher_do_not_reach_what_it_shares():
    model = Data2Vec(mixture()).train()
    assert model.student["speech"].feature_encoder.training
    assert not any(module.training for module in model.teacher.modules())
    model.teacher.requires_grad_(False)
    assert all(parameter.requires_grad for parameter in model.student.parameters())
    assert isinstance(model.bfloat16().teacher["speech"].projection, nn.Module)
    assert model.teacher["speech"].projection.linear.weight.dtype == torch.bfloat16

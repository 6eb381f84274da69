from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from configs.schema import OptimizerConfig
from models.data2vec import Data2Vec, masked_rows, parameter_groups, regression_loss
from models.statistics import std_from_moments
from tests.models.common import random_batch, randomise, tiny_config


def make_model(**model) -> Data2Vec:
    model = Data2Vec(tiny_config(**model))
    randomise(model.student, seed=1)
    randomise(model.teacher, seed=2)
    return model


def losses(model: Data2Vec, batches) -> list[torch.Tensor]:
    count = torch.tensor(sum(int(batch.mask.sum()) for batch in batches))
    return [model(batch, count).loss for batch in batches]


def test_teacher_is_a_frozen_copy_that_stays_in_evaluation_mode():
    model = Data2Vec(tiny_config(drop_path=0.5)).train()
    for _, student, teacher in model.tracked():
        assert torch.equal(student, teacher) and student is not teacher and not teacher.requires_grad
    assert len(model.tracked()) == len(list(model.student.parameters()))
    assert model.student.training and not any(module.training for module in model.teacher.modules())


def test_every_student_parameter_gets_a_gradient_and_no_teacher_parameter():
    model = make_model(drop_path=0.9).train()
    losses(model, [random_batch(model.config)])[0].backward()
    assert [name for name, parameter in model.student.named_parameters() if parameter.grad is None] == []
    assert [name for name, parameter in model.teacher.named_parameters() if parameter.grad is not None] == []


def test_loss_against_a_plain_implementation():
    """Full forward of both networks, boolean selection of the masked patches, everything by hand."""
    model = make_model().eval()
    batch = random_batch(model.config, masked=4)
    patches = model.patches(batch)
    blocks = [output[:, 1:] for output in model.teacher(patches, top=2)]
    target = F.layer_norm(torch.stack([F.layer_norm(block, (32,)) for block in blocks]).mean(0), (32,))[batch.mask]
    prediction = model.student.head(model.student.norm(model.student(patches, batch.mask)[0]))[:, 1:][batch.mask]
    difference = (prediction - target).abs()
    expected = torch.where(difference < 2, 0.5 * difference**2 / 2, difference - 1).mean()
    output = model(batch, batch.mask.sum())
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(std_from_moments(output.target_moments).float(), (target.var(0) + 1e-6).sqrt().mean())
    torch.testing.assert_close(
        std_from_moments(output.prediction_moments).float(), (prediction.var(0) + 1e-6).sqrt().mean()
    )


def test_teacher_sees_the_unmasked_image_and_the_student_the_masked_one():
    model = make_model().eval()
    batch = random_batch(model.config)
    patches, (rows, _) = model.patches(batch), masked_rows(batch.mask, 6)
    changed = torch.where(batch.mask[..., None], patches + 1, patches)
    assert torch.equal(model.predictions(patches, batch.mask, rows), model.predictions(changed, batch.mask, rows))
    assert not torch.allclose(model.targets(patches, rows), model.targets(changed, rows))


def test_smooth_l1_and_squared_error():
    predictions, targets = torch.tensor([[[0.0, 3.0], [5.0, 5.0]]]), torch.zeros(1, 2, 2)
    weight = torch.tensor([[1.0, 0.0]])
    assert float(regression_loss(predictions, targets, weight, beta=2.0)) == (0 + (3 - 1)) / 2
    assert float(regression_loss(predictions, targets, weight, beta=4.0)) == (0 + 9 / 8) / 2
    assert float(regression_loss(predictions, targets, weight, beta=0.0)) == 9 / 2


def test_loss_and_gradient_add_up_over_micro_batches():
    model = make_model()
    batch = random_batch(model.config, size=5, masked=4)
    batch.mask[0, batch.mask[0].nonzero()[0]] = False  # unequal counts
    parts = [batch.map(lambda tensor, s=s: tensor[s]) for s in (slice(0, 2), slice(2, 5))]
    gradients = []
    for batches in ([batch], parts):
        model.zero_grad()
        total = sum(losses(model, batches))
        total.backward()
        gradients.append([total.detach(), *(parameter.grad.clone() for parameter in model.student.parameters())])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(whole, summed, rtol=1e-4, atol=1e-6)


def test_padded_rows_have_no_influence():
    """A wider padding, and the batch mates that need it, change nothing."""
    batch = random_batch(tiny_config(), masked=3)
    outputs = []
    for patches in (3, 6, 16, 120):
        model = make_model(patches=patches)
        outputs.append(model(batch, torch.tensor(12)))
    for other in outputs[1:]:
        for mine, theirs in zip(outputs[0], other, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_masked_rows():
    mask = torch.tensor([[False, True, False, True], [True, False, False, False]])
    rows, weight = masked_rows(mask, 3)
    assert rows[0, :2].tolist() == [1, 3] and rows[1, 0] == 0
    assert weight.tolist() == [[1, 1, 0], [1, 0, 0]]
    with pytest.raises(AssertionError, match="more patches masked"):
        masked_rows(mask, 1)


def test_bfloat16_forward_has_a_float32_loss_and_integer_positions():
    model = make_model(drop_path=0.2, attention_dropout=0.1).bfloat16()
    output = model(random_batch(model.config), torch.tensor(24))
    output.loss.backward()
    assert output.loss.dtype == torch.float32 and bool(output.loss.isfinite())
    assert model.student.positions.index.dtype == torch.int64
    reference = make_model()(random_batch(model.config), torch.tensor(24)).loss
    torch.testing.assert_close(output.loss.detach(), reference.detach(), rtol=0.05, atol=0)


def test_features_are_of_the_whole_unmasked_image_and_restore_the_mode():
    model = make_model(drop_path=0.5).train()
    images = random_batch(model.config, size=3).inputs
    features = model.features(images)
    assert features.shape == (3, 32) and features.dtype == torch.float32
    torch.testing.assert_close(model.features(images[1:2])[0], features[1])
    assert not torch.allclose(model.features(images, "student"), features)
    assert model.student.training and not model.teacher.training


def test_parameter_groups_of_the_vision_recipe():
    model = Data2Vec(tiny_config())
    names = {id(parameter): name for name, parameter in model.student.named_parameters()}
    decayed, spared = parameter_groups(model, OptimizerConfig(weight_decay=0.05))
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0) and decayed["teacher"]
    decayed, spared = ({names[id(parameter)] for parameter in group["params"]} for group in (decayed, spared))
    assert {"tokens.mask", "positions.table", "patch_embedding.weight", "head.weight"} <= decayed
    assert {"tokens.cls", "encoder.blocks.0.gamma1", "encoder.blocks.0.attention.qkv.q_bias", "norm.weight"} <= spared
    assert decayed | spared == set(names.values()) and not decayed & spared
    (everything,) = parameter_groups(model, replace(OptimizerConfig(), decay_rule="all"))
    assert len(everything["params"]) == len(names)


@pytest.mark.parametrize(
    ("section", "key", "value"), [("model", "heads", 3), ("vision", "patch_size", 5), ("teacher", "layers", 9)]
)
def test_sizes_that_contradict_each_other_are_refused(section: str, key: str, value: int):
    config = tiny_config()
    setattr(getattr(config, section), key, value)
    with pytest.raises(ValueError, match=f"{section}.{key}={value} must"):
        Data2Vec(config)

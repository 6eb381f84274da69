import copy
import itertools
from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch
import torch.nn.functional as F

from configs.schema import PretrainConfig
from configs.schema_objective import LossConfig, TeacherConfig
from models import transformer
from models.data2vec import Data2Vec, average, token_losses
from models.layers.masked import masked_rows
from models.statistics import std_from_moments
from tests.models.common import MODALITIES, random_batch, randomise, tiny_config

each_modality = pytest.mark.parametrize("modality", MODALITIES)
each_with_padding = pytest.mark.parametrize("modality", ["speech", "text"])


def make_model(**model) -> Data2Vec:
    return randomised(tiny_config(**model))


def randomised(config: PretrainConfig) -> Data2Vec:
    model = Data2Vec(config)
    randomise(model.student, seed=1)
    randomise(model.teacher, seed=2)
    return model


def losses(model: Data2Vec, batches) -> list[torch.Tensor]:
    count = torch.tensor(sum(int(batch.masks.sum()) for batch in batches))
    return [model(batch, count).loss for batch in batches]


@each_modality
def test_teacher_is_a_frozen_copy_that_stays_in_evaluation_mode(modality):
    model = Data2Vec(tiny_config(modality=modality)).train()
    for _, student, teacher in model.tracked():
        assert torch.equal(student, teacher) and student is not teacher and not teacher.requires_grad
    assert model.student.training and not any(module.training for module in model.teacher.modules())


@each_modality
def test_every_student_parameter_gets_a_gradient_and_no_teacher_parameter(modality):
    model = make_model(modality=modality, drop_path=0.9 if modality == "vision" else 0.0).train()
    losses(model, [random_batch(model.config)])[0].backward()
    assert [name for name, parameter in model.student.named_parameters() if parameter.grad is None] == []
    assert [name for name, parameter in model.teacher.named_parameters() if parameter.grad is not None] == []


def test_vision_loss_against_a_plain_implementation():
    """Full forward of both networks, boolean selection of the masked patches, everything by hand."""
    model = make_model().eval()
    batch = random_batch(model.config, masked=4)
    seen, whole = model.embed(batch)
    blocks = [output[:, 1:] for output in model.teacher(whole, batch.lengths, top=2)]
    target = F.layer_norm(torch.stack([F.layer_norm(block, (32,)) for block in blocks]).mean(0), (32,))[
        batch.masks[:, 0]
    ]
    prediction = model.student.predict(model.student(seen, batch.lengths, batch.masks[:, 0])[0])[:, 1:][
        batch.masks[:, 0]
    ]
    difference = (prediction - target).abs()
    expected = torch.where(difference < 2, 0.5 * difference**2 / 2, difference - 1).mean()
    compare(model(batch, batch.masks.sum()), expected, target, prediction)


def test_speech_loss_against_a_plain_implementation():
    """Every clip alone: feed-forward results with zero mean and unit variance over its frames, averaged; the squared
    error summed over channels, times H^(-1/2)."""
    model = make_model(modality="speech").eval()
    batch = random_batch(model.config)
    targets, predictions = [], []
    for i, length in enumerate(batch.lengths.tolist()):
        clip, mask = batch.take(torch.tensor([i])), batch.masks[:, 0][i, :length]
        seen, whole = model.embed(clip)
        blocks = model.teacher(whole, clip.lengths, top=2, target="ffn")
        normalised = [F.instance_norm(block.transpose(1, 2)).transpose(1, 2) for block in blocks]
        targets.append(torch.stack(normalised).mean(0)[0, mask])
        predictions.append(model.student.predict(model.student(seen, clip.lengths, clip.masks[:, 0])[0])[0, mask])
    target, prediction = torch.cat(targets), torch.cat(predictions)
    expected = (prediction - target).square().sum(1).mean() / 32**0.5
    compare(model(batch, batch.masks.sum()), expected, target, prediction)


def test_text_loss_against_a_plain_implementation():
    """The teacher sees the whole text; LayerNorm of feed-forward results, averaged; Smooth-L1 summed over channels."""
    model = make_model(modality="text").eval()
    batch = random_batch(model.config)
    embedding = model.student.embedding.weight
    blocks = model.teacher(F.embedding(batch.inputs, embedding), batch.lengths, top=2, target="ffn")
    target = torch.stack([F.layer_norm(block, (32,)) for block in blocks]).mean(0)[batch.masks[:, 0]]
    seen = F.embedding(batch.corrupted[:, 0], embedding)
    prediction = model.student.predict(model.student(seen, batch.lengths)[0])[batch.masks[:, 0]]
    difference = (prediction - target).abs()
    expected = torch.where(difference < 4, difference**2 / 8, difference - 2).sum(1).mean()
    compare(model(batch, batch.masks.sum()), expected, target, prediction)


@each_modality
@pytest.mark.parametrize("norm", ["pre", "post", "deep"])
def test_targets_of_every_kind_against_a_plain_recomputation(modality, norm):
    """Each sample alone, each masked token by its number, from hooks on the teacher's blocks."""
    model = make_model(modality=modality, norm=norm).eval()
    batch = random_batch(model.config)
    rows, weight = masked_rows(batch.masks[:, 0], int(batch.masks.sum(2).max()))
    _, whole = model.embed(batch)
    norms = [field_choices("block_norm"), field_choices("mean_norm")]
    combinations = list(itertools.product(field_choices("target"), *norms))
    assert len(combinations) == 2 * 3 * 3
    outputs = {kind: [block_outputs(model, batch, i, kind) for i in range(len(batch))] for kind in ("block", "ffn")}
    for target, block_norm, mean_norm in combinations:
        model.configs[modality] = chosen(model, modality, target, block_norm, mean_norm)
        got = model.targets(batch, whole, rows)[weight.bool()]
        expected = [
            plain_target(outputs[target][sample], token, block_norm, mean_norm)
            for sample, token in batch.masks[:, 0].nonzero().tolist()
        ]
        difference = (got - torch.stack(expected)).abs().max()
        assert float(difference) < 1e-3, (target, block_norm, mean_norm)


def field_choices(key: str) -> list[str]:
    """The values of a key of `TeacherConfig` but null, as the schema lists them."""
    choices, _ = get_args(get_type_hints(TeacherConfig)[key])
    return list(get_args(choices))


def chosen(model: Data2Vec, modality, target: str, block_norm: str, mean_norm: str):
    config = copy.deepcopy(model.config)
    config.teacher.target, config.teacher.block_norm, config.teacher.mean_norm = target, block_norm, mean_norm
    return config.for_modality(modality)


@torch.no_grad()
def block_outputs(model: Data2Vec, batch, sample: int, target: str) -> list[torch.Tensor]:
    """What the top two blocks of the teacher, or their feed-forward layers, give for a sample's own tokens, [T, H]."""
    alone, seen = batch.take(torch.tensor([sample])), []
    blocks = list(model.network(batch.modality, "teacher").encoder.blocks)[-2:]
    modules = blocks if target == "block" else [block.feed_forward for block in blocks]
    hooks = [module.register_forward_hook(lambda module, inputs, output: seen.append(output)) for module in modules]
    model.teacher(model.embed(alone)[1], None)
    for hook in hooks:
        hook.remove()
    length = int(alone.lengths)
    first = 1 if batch.modality == "vision" else 0  # CLS stands in front of the patches
    assert [len(output[0]) - first for output in seen] == [length, length]
    return [output[0, first : first + length].double() for output in seen]


def plain_target(blocks: list[torch.Tensor], token: int, block_norm: str, mean_norm: str) -> torch.Tensor:
    """The target of one token from all tokens of its sample, by the definition of the norms."""
    mean = sum(plain_norm(block, block_norm) for block in blocks) / len(blocks)
    return plain_norm(mean, mean_norm)[token].float()


def plain_norm(x: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "none":
        return x
    axis = 1 if kind == "layer" else 0
    deviation = (x.var(axis, correction=0, keepdim=True) + 1e-5).sqrt()
    return (x - x.mean(axis, keepdim=True)) / deviation


def compare(output, expected: torch.Tensor, target: torch.Tensor, prediction: torch.Tensor) -> None:
    torch.testing.assert_close(output.loss, expected)
    for moments, values in ((output.statistics["target"], target), (output.statistics["prediction"], prediction)):
        torch.testing.assert_close(std_from_moments(moments).float(), (values.var(0) + 1e-6).sqrt().mean())


def test_teacher_sees_the_unmasked_image_and_the_student_the_masked_one():
    model = make_model().eval()
    batch = random_batch(model.config)
    (seen, whole), (rows, _) = model.embed(batch), masked_rows(batch.masks[:, 0], 6)
    changed = [torch.where(batch.masks[:, 0][..., None], local + 1, local) for local in (seen, whole)]
    assert torch.equal(model.predictions(batch, seen, rows), model.predictions(batch, changed[0], rows))
    assert not torch.allclose(model.targets(batch, whole, rows), model.targets(batch, changed[1], rows))


@each_with_padding
@pytest.mark.parametrize("norm", ["pre", "post", "deep"])
def test_a_sample_does_not_depend_on_what_it_is_batched_with(modality, norm):
    """Loss, statistics and gradients of a padded batch are the sums of those of its samples alone."""
    model = make_model(modality=modality, norm=norm)
    batch = random_batch(model.config)
    alone = [batch.take(torch.tensor([i])) for i in range(4)]
    whole, summed = results(model, [batch]), results(model, alone)
    for mine, theirs in zip(whole, summed, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@each_with_padding
def test_what_lies_behind_a_samples_end_has_no_influence(modality):
    model, batch = make_model(modality=modality), random_batch(tiny_config(modality=modality))
    padding = torch.arange(batch.masks[:, 0].shape[1]) >= batch.lengths[:, None]
    if modality == "speech":
        samples = torch.tensor([400 + 320 * (length - 1) for length in batch.lengths.tolist()])
        padding = torch.arange(batch.inputs.shape[1]) >= samples[:, None]
    assert bool(padding.any())
    other = replace(batch, inputs=batch.inputs.masked_fill(padding, 7))
    for mine, theirs in zip(results(model, [batch]), results(model, [other]), strict=True):
        assert torch.equal(mine, theirs)


def test_leaky_positions_let_padding_through():
    config = tiny_config(modality="speech")
    config.speech.leaky_positions = True
    batch, model = random_batch(config), randomised(config)
    alone = results(model, [batch.take(torch.tensor([i])) for i in range(4)])[0]
    assert abs(float(results(model, [batch])[0] - alone)) > 1e-3


@each_modality
def test_loss_and_gradient_add_up_over_micro_batches(modality):
    model = make_model(modality=modality)
    batch = random_batch(model.config, size=5, masked=3, lengths=None if modality == "vision" else [9, 14, 8, 11, 12])
    batch.masks[:, 0][0, batch.masks[:, 0][0].nonzero()[0]] = False  # unequal counts
    parts = [batch.take(rows) for rows in (torch.arange(2), torch.arange(2, 5))]
    for whole, summed in zip(results(model, [batch]), results(model, parts), strict=True):
        torch.testing.assert_close(whole, summed, rtol=1e-4, atol=1e-5)


def results(model: Data2Vec, batches) -> list[torch.Tensor]:
    """The step's loss without dropout, and its gradients."""
    model.eval().zero_grad()
    total = sum(losses(model, batches))
    total.backward()
    return [total.detach(), *(parameter.grad.clone() for parameter in model.student.parameters())]


@pytest.mark.parametrize(("kind", "axis"), [("layer", -1), ("instance", 0), ("none", None)])
def test_normalisation_of_targets(kind, axis):
    x, lengths = torch.randn(3, 7, 32) * 5 + 2, torch.tensor([4, 7, 2])
    got = average([x], lengths, TeacherConfig(block_norm=kind, mean_norm="none"))
    for sample, normalised, length in zip(x, got, lengths.tolist(), strict=True):
        expected = sample[:length]
        if axis is not None:
            variance, mean = torch.var_mean(expected, axis, correction=0, keepdim=True)
            expected = (expected - mean) / (variance + 1e-5).sqrt()
        torch.testing.assert_close(normalised[:length], expected)
    twice = average([x, -x], lengths, TeacherConfig(block_norm="none", mean_norm=kind))
    assert float(twice.abs().max()) == 0


def test_smooth_l1_squared_error_and_reductions():
    predictions, targets = torch.tensor([[[0.0, 3.0], [5.0, 5.0]]]), torch.zeros(1, 2, 2)

    def loss(beta: float, reduction: str) -> float:
        return float(token_losses(predictions, targets, LossConfig(beta, reduction))[0, 0])

    assert loss(2.0, "mean") == (0 + (3 - 1)) / 2
    assert loss(4.0, "mean") == (0 + 9 / 8) / 2
    assert loss(0.0, "mean") == 9 / 2
    assert loss(0.0, "sum") == 9
    assert loss(0.0, "sqrt") == pytest.approx(9 / 2**0.5)


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
    with pytest.raises(AssertionError, match="more tokens masked"):
        masked_rows(mask, 1)


@each_modality
@pytest.mark.parametrize("lengths", [None, [12, 12, 12]])
def test_a_micro_batch_asks_nothing_of_its_device(modality, lengths, monkeypatch):
    """On a GPU each question would wait for all that is queued; a meta tensor has no answer. Padding is a bias once."""
    made, padding_bias = [], transformer.padding_bias
    monkeypatch.setattr(transformer, "padding_bias", lambda *a: made.append(a) or padding_bias(*a))
    model, batch = make_model(modality=modality).train(), random_batch(tiny_config(modality=modality), lengths=lengths)
    output = model.to("meta")(batch.to("meta"), torch.tensor(12, device="meta"))
    output.loss.backward()
    assert len(made) == (0 if modality == "vision" or lengths else 2), "student and teacher"


@each_with_padding
def test_an_unpadded_batch_needs_no_lengths(modality):
    model = make_model(modality=modality)
    batch = random_batch(model.config, lengths=[12, 12, 12])
    assert not batch.padded
    for mine, theirs in zip(results(model, [batch]), results(model, [replace(batch, padded=True)]), strict=True):
        assert torch.equal(mine, theirs)


@each_modality
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_bfloat16_forward_has_a_float32_loss(modality, norm):
    model = make_model(modality=modality, norm=norm, dropout=0.0, attention_dropout=0.0)
    batch = random_batch(model.config)
    reference = losses(model, [batch])[0].detach()
    (loss,) = losses(model.bfloat16(), [batch])
    loss.backward()
    assert loss.dtype == torch.float32 and bool(loss.isfinite())
    # Instance norm over a dozen frames of noise magnifies what they differ by.
    torch.testing.assert_close(loss.detach(), reference, rtol=0.2 if modality == "speech" else 0.05, atol=0)
    if modality == "vision":
        assert model.student.positions.index.dtype == torch.int64


@each_modality
def test_features_are_of_the_whole_sample_and_restore_the_mode(modality):
    model = make_model(modality=modality, dropout=0.3).train()
    batch = random_batch(model.config, size=5)
    batch = replace(batch, masks=torch.zeros_like(batch.masks), corrupted=None)
    features = model.features(batch)
    assert features.shape == (5, 32) and features.dtype == torch.float32
    assert float(features.abs().mean()) > 0.1  # the mean of an instance norm over a clip would be nothing
    for i in range(5):
        torch.testing.assert_close(model.features(batch.take(torch.tensor([i])))[0], features[i], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model.features(batch, "student"), features)
    assert model.student.training and not model.teacher.training


def test_features_of_text_leave_special_tokens_out():
    config = tiny_config(modality="text")
    config.teacher.layers, config.model.layers = 1, 1
    model, batch = randomised(config), random_batch(config, lengths=[6, 9])
    batch = replace(batch, corrupted=None)
    (block,) = model.teacher(model.student.embed(batch.inputs), batch.lengths, target="ffn")
    expected = F.layer_norm(block, (32,))[0, 1:5].mean(0)
    torch.testing.assert_close(model.features(batch)[0], expected)


def test_layer_drop_follows_the_shared_seed():
    model = make_model(modality="speech", layer_drop=0.5, dropout=0.0, attention_dropout=0.0).train()
    batch = random_batch(model.config)
    seeds = {seed: round(float(model(batch, torch.tensor(12), seed).loss.detach()), 5) for seed in (3, 4, 5, 6, 7, 8)}
    assert len(set(seeds.values())) > 1
    assert seeds == {seed: round(float(model(batch, torch.tensor(12), seed).loss.detach()), 5) for seed in seeds}


def test_parameter_groups_of_the_vision_recipe():
    model = Data2Vec(tiny_config())
    names = {id(parameter): name for name, parameter in model.student.named_parameters()}
    decayed, spared = model.parameter_groups()
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.05, 0.0)
    assert decayed["teacher"] and spared["teacher"] and decayed["modality"] is None
    decayed, spared = ({names[id(parameter)] for parameter in group["params"]} for group in (decayed, spared))
    assert {"tokens.mask", "positions.table", "patch_embedding.weight", "head.weight"} <= decayed
    assert {"tokens.cls", "encoder.blocks.0.gamma1", "encoder.blocks.0.attention.qkv.q_bias", "norm.weight"} <= spared
    assert decayed | spared == set(names.values()) and not decayed & spared
    model.config.optimizer.decay_rule = "all"
    (everything,) = model.parameter_groups()
    assert len(everything["params"]) == len(names)


@pytest.mark.parametrize(
    ("section", "key", "value"), [("model", "heads", 3), ("vision", "patch_size", 5), ("teacher", "layers", 9)]
)
def test_sizes_that_contradict_each_other_are_refused(section: str, key: str, value: int):
    config = tiny_config()
    setattr(getattr(config, section), key, value)
    with pytest.raises(ValueError, match=f"{section}.{key}={value} must"):
        Data2Vec(config)

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from configs.compose import compose_recipe
from models.build import make_student
from models.data2vec import Data2Vec
from models.data2vec2 import Data2Vec2, make_objective
from models.layers.masked import Masked, masked_of
from tests.models.common import MODALITIES, random_batch, randomise, tiny_config

each_modality = pytest.mark.parametrize("modality", MODALITIES)


def make_model(modality, **model) -> Data2Vec2:
    found = make_objective(tiny_config(modality=modality, objective="v2", **model))
    assert isinstance(found, Data2Vec2)
    randomise(found.student, seed=1)
    randomise(found.teacher, seed=2)
    return found


def test_the_configuration_names_the_objective():
    assert type(make_objective(tiny_config())) is Data2Vec


@pytest.mark.parametrize("positions", ["relative", "sincos"])
def test_positions_of_images_against_a_plain_implementation(positions):
    config = tiny_config(objective="v2")
    config.vision.positions = positions
    model = make_objective(config).eval()
    randomise(model.student, seed=1)
    randomise(model.teacher, seed=2)
    check_loss(model, "vision")


@each_modality
@pytest.mark.parametrize("norm", ["pre", "post", "deep"])
def test_loss_against_a_plain_implementation(modality, norm):
    """Each mask of each sample alone, without padding; the mean over all hidden tokens of the step."""
    check_loss(make_model(modality, norm=norm).eval(), modality)


def check_loss(model, modality):
    batch = random_batch(model.config)
    options = model.configs[modality]
    total, cls, count, masks = torch.zeros(()), torch.zeros(()), 0, 0
    for i, m in itertools.product(range(len(batch)), range(3)):
        alone = batch.take(torch.tensor([i]))
        mask = alone.masks[0, m]
        student_input, teacher_input = model.embed(alone)
        blocks = model.teacher(teacher_input, None, top=2, target="ffn")
        own = [F.instance_norm(b[:, model.student.prefix :].transpose(1, 2)).transpose(1, 2) for b in blocks]
        whole = torch.stack(own).mean(0)[0]
        whole = F.layer_norm(whole, (32,)) if modality == "vision" else whole
        output = plain_output(model, student_input[0], mask)
        decoded = decode(model, output[model.student.prefix :], mask, alone.noise_keys[0, m])
        error = (decoded - whole[mask]).square().sum(-1)
        total += error.sum() * (1 if modality == "text" else 32**-0.5)
        cls += (output[0] - whole.mean(0)).square().sum() * 32**-0.5
        count, masks = count + int(mask.sum()), masks + 1
    expected = total / count + (options.loss.cls * cls / masks if modality == "vision" else 0)
    got = model(batch, torch.tensor(count))
    torch.testing.assert_close(got.loss, expected, rtol=1e-4, atol=1e-5)
    assert got.statistics["target"][0] == count == int(batch.masks.sum())


def plain_output(model, features, mask):
    """Normalised outputs of the student for the visible tokens of one sample, [prefix + V, H]; features [T, H]."""
    student = model.student
    if model.configs[student_modality(student)].modality == "speech":
        hidden = torch.where(mask[:, None], 0.0, features)[None]
        x = (hidden + student.positions(hidden, None))[:, ~mask]
        (last,) = student.encoder(x)
    elif student_modality(student) == "text":
        (last,) = student.encoder(student.norm_embeddings(student.positions(features[None]))[:, ~mask])
    else:
        kept = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + (~mask).nonzero().flatten()])
        fixed = student.fixed_positions
        bias = None if fixed else student.positions()[:, kept][:, :, kept]
        placed = features + fixed.table if fixed else features
        x = torch.cat([student.tokens.cls[0], placed[~mask]])[None]
        (last,) = student.encoder(x, bias)
    return (last if student.norm is None else student.norm(last))[0]


def student_modality(student) -> str:
    return type(student).__name__.removesuffix("Network").lower()


def decode(model, seen, mask, key):
    """The decoder on one sample; it has a test of its own."""
    places, all_seen = mask.nonzero().flatten()[None], (~mask)[None]
    visible = (~mask).nonzero().flatten()[None]
    masked = Masked(mask[None], all_seen, places, torch.ones(places.shape), visible, None, None)
    return model.student.head(seen[None], masked, key[None])[0]


@each_modality
def test_the_loss_of_a_step_does_not_depend_on_its_micro_batches(modality):
    model = make_model(modality).eval()
    batch = random_batch(model.config)
    count = batch.masks.sum()
    parts = [batch.take(torch.tensor(rows)) for rows in ([0, 2], [1], [3])]
    losses = [model(part, count).loss for part in parts]
    torch.testing.assert_close(sum(losses), model(batch, count).loss, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("modality", ["speech", "text"])
def test_padding_and_what_lies_behind_a_samples_end_change_nothing(modality):
    model = make_model(modality).eval()
    batch = random_batch(model.config)
    short = batch.take(torch.tensor([0]))
    wide = batch.take(torch.tensor([0, 1]))
    assert wide.tokens > short.tokens
    inputs = wide.inputs.clone()
    inputs[0, short.inputs.shape[1] :] = 7
    wide = wide.map(lambda tensor: inputs if tensor is wide.inputs else tensor)
    outputs = [model.outputs(b, model.embed(b)[0], masked_of(b)) for b in (short, wide)]
    predictions = [model.hidden_predictions(b, o, masked_of(b)) for b, o in zip((short, wide), outputs, strict=True)]
    hidden = int(short.masks[0, 0].sum())
    torch.testing.assert_close(predictions[1][:3, :hidden], predictions[0][:, :hidden], rtol=1e-4, atol=1e-5)


@each_modality
def test_hidden_tokens_do_not_reach_the_student(modality):
    """Not their content: changing it changes no prediction."""
    model = make_model(modality).eval()
    batch = random_batch(model.config)
    features, masked = model.embed(batch)[0], masked_of(batch)
    other = features.clone()
    hidden_everywhere = batch.masks.all(1)
    one = hidden_everywhere.nonzero()
    assert len(one), "some token is hidden by all masks of its sample"
    other[hidden_everywhere] += 100
    torch.testing.assert_close(model.outputs(batch, other, masked), model.outputs(batch, features, masked))


@each_modality
def test_the_teacher_has_no_decoder_and_every_parameter_of_the_student_learns(modality):
    model = make_model(modality).train()
    averaged = {entry.name for entry in model.tracked()}
    assert averaged and not any(name.startswith("head.") for name in averaged)
    model(random_batch(model.config), torch.tensor(50)).loss.backward()
    assert [name for name, parameter in model.student.named_parameters() if parameter.grad is None] == []
    names = dict(model.student.named_parameters())
    assert not any(name in ("tokens.mask", "masking.vector") for name in names), "no mask vector, which would not learn"


@each_modality
def test_noise_comes_from_the_keys(modality):
    model = make_model(modality).eval()
    batch = random_batch(model.config)
    count = batch.masks.sum()
    once, again = model(batch, count).loss, model(batch, count).loss
    changed = model(batch.map(lambda t: t + 1 if t is batch.noise_keys else t), count).loss
    assert torch.equal(once, again) and not torch.equal(once, changed)


@each_modality
def test_flops_are_those_that_torch_counts(modality):
    """torch counts the products of the running model; attention runs as plain batched products here."""
    config = tiny_config(modality=modality, objective="v2")
    config.speech.position_groups = config.decoder.groups = 1  # torch miscounts gradients of grouped convolutions
    config.decoder.width, config.loss.cls = 24, 0.0
    tokens = config.vision.tokens if modality == "vision" else 12
    batch = random_batch(config, lengths=[tokens] * 4)
    with FlopCounterMode(display=False) as counter:
        make_objective(config).eval()(batch, batch.masks.sum()).loss.backward()
    colour = 2 * 3 * 3 * 16 * 16 if modality == "vision" else 0  # products that are not the model's: the colour map,
    moments = 2 * 2 * 2 * 3 * int(batch.masks[0, 0].sum()) * 32  # and the sums over targets and predictions
    assert counter.get_total_flops() == make_objective(config).flops(batch) + 4 * (colour + moments)


def test_base_sizes():
    """Blocks as in v1; the decoders of Base in millions of parameters."""
    with torch.device("meta"):
        for recipe, millions in (("vision_base_imagenet", 2.6), ("speech_base_librispeech", 0.62)):
            config = compose_recipe(recipe)
            config.objective = "v2"
            student = make_student(config)
            decoder = sum(p.numel() for p in student.head.parameters())
            assert decoder == pytest.approx(millions * 1e6, rel=0.05), recipe


@pytest.mark.parametrize("objective", ["v1", "v2"])
@each_modality
def test_the_losses_of_tokens_sum_to_the_loss_and_are_each_samples_own(modality, objective):
    """What pictures show: the loss of each hidden token, whatever batch its sample is in."""
    model = make_objective(tiny_config(modality=modality, objective=objective)).eval()
    randomise(model.student, seed=1)
    batch = random_batch(model.config)
    output = model(batch, torch.tensor(7.0))
    errors = output.errors
    assert errors.shape == batch.masks.shape and not errors.requires_grad
    assert torch.equal(errors > 0, batch.masks)
    expected = errors.sum()
    if objective == "v2" and modality == "vision":
        student_input, teacher_input = model.embed(batch)
        outputs = model.outputs(batch, student_input, masked_of(batch))
        expected = expected + model._cls_loss(batch, outputs, model.all_targets(batch, teacher_input))
    torch.testing.assert_close(output.loss, expected / 7)
    alone = model(batch.take(torch.tensor([1])), torch.tensor(1.0)).errors
    torch.testing.assert_close(errors[1:2, :, : alone.shape[2]], alone)

"""What is measured of tiny networks of every modality, and planted collapses that have to be named."""

import json
from dataclasses import replace
from math import isfinite

import pytest
import torch

from configs.schema_modalities import MODALITIES
from configs.schema_running import GuardConfig
from configs.schema_training import MixtureConfig
from configs.signals import samples_of
from data_shards.batch import MaskedBatch
from models.data2vec import Data2Vec
from models.data2vec2 import make_objective
from models.vision import FixedPositions
from pretrain.engine import distributed
from pretrain.health.collapse import CollapseGuard, ModuleHealth, measure
from tests.models.common import random_batch, tiny_config

CPU = torch.device("cpu")
FIRST = {"vision": "patch_embedding", "speech": "feature_encoder", "text": "embedding"}
KINDS = (*MODALITIES, "mixture")
HEALTHY = ModuleHealth(0.5, 20.0)


def model_of(kind: str, **model) -> Data2Vec:
    return Data2Vec(tiny_config(modality=MODALITIES if kind == "mixture" else kind, **model)).train()


def look(model: Data2Vec, batch: MaskedBatch | None = None) -> dict[str, ModuleHealth]:
    return measure(model, batch or random_batch(model.config), CPU)


def blocks(prefix: str, layers: int = 3) -> list[str]:
    return [f"{prefix}blocks.{i}" for i in range(layers)]


def train(model: Data2Vec, steps: int, guard: CollapseGuard | None = None) -> float:
    """AdamW and the moving average on changing batches; `guard` looks at every fifth step. The last loss."""
    optimizer = torch.optim.AdamW(model.student.parameters(), lr=1e-3)
    for step in range(steps):
        modality = model.config.modalities[step % len(model.config.modalities)]
        batch = random_batch(model.config, seed=step, modality=modality)
        if guard and step % 5 < len(model.config.modalities):
            assert not guard.check_modules(step, measure(model, batch, CPU), modality)
        optimizer.zero_grad()
        loss = model(batch, batch.masks.sum()).loss
        loss.backward()
        optimizer.step()
        for _, student, teacher in model.tracked():
            teacher.data.lerp_(student.data, 0.1)
    return loss.item()


@torch.no_grad()
def collapse(model: Data2Vec) -> None:
    """Make nearly the same of every frame."""
    for name, parameter in model.student.feature_encoder.named_parameters():
        if name.endswith("weight"):
            parameter.mul_(1e-4)


@pytest.mark.parametrize(
    ("modality", "average", "local"),
    [("vision", None, True), ("vision", "blocks", False), ("speech", None, False), ("text", None, False),
     ("text", "all", True)],
)  # fmt: skip
def test_names_are_those_of_parameters_and_the_teachers_are_what_it_averages(modality, average, local):
    config = tiny_config(modality=modality)
    config.teacher.average = average
    model = Data2Vec(config)
    student, teacher = ([f"{network}.{FIRST[modality]}"] for network in ("student", "teacher"))
    encoders = [blocks(f"{network}.encoder.") for network in ("student", "teacher")]
    assert list(look(model)) == student + encoders[0] + (teacher if local else []) + encoders[1]
    for name in look(model):
        assert isinstance(model.get_submodule(name), torch.nn.Module)


@pytest.mark.parametrize("modality", MODALITIES)
@pytest.mark.parametrize("kind", ["shared", "separate"])
def test_names_in_a_mixture(modality, kind):
    config = tiny_config(modality=MODALITIES)
    config.mixture = MixtureConfig(blocks=kind)
    found = look(Data2Vec(config), random_batch(config, modality=modality))
    place = "" if kind == "shared" else f"{modality}.encoder."
    student = [f"student.{modality}.{FIRST[modality]}", *blocks(f"student.{place}")]
    teacher = ["teacher.vision.patch_embedding"] if modality == "vision" else []
    assert list(found) == [*student, *teacher, *blocks(f"teacher.{place}")]


@pytest.mark.parametrize("modality", MODALITIES)
def test_the_student_sees_the_masked_view_and_the_teacher_the_whole_one(modality):
    model = model_of(modality)
    batch = random_batch(model.config)
    whole = replace(
        batch, masks=torch.zeros_like(batch.masks), corrupted=batch.inputs[:, None] if modality == "text" else None
    )
    masked, unmasked = look(model, batch), look(model, whole)
    last = "encoder.blocks.2"
    assert unmasked[f"student.{last}"] == unmasked[f"teacher.{last}"] == masked[f"teacher.{last}"]
    assert masked[f"student.{last}"] != masked[f"teacher.{last}"]


def test_figures_are_those_of_real_tokens_alone():
    """CLS and what stands behind a clip's end count for nothing."""
    model = model_of("speech")
    batch = random_batch(model.config)
    noisy = batch.inputs.clone()
    noisy[0, samples_of(int(batch.lengths[0])) :] = 30000
    assert look(model, batch) == look(model, replace(batch, inputs=noisy)) and not torch.equal(batch.inputs, noisy)
    vision = model_of("vision")
    same = replace(random_batch(vision.config), inputs=torch.full((4, 3, 16, 16), 99, dtype=torch.uint8))
    same = replace(same, color=same.color[:1].repeat(4, 1, 1))
    patches = [look(vision, same)[name] for name in ("teacher.patch_embedding", "teacher.encoder.blocks.0")]
    assert all(health.std < 1e-6 and health.rank < 2 for health in patches)


def test_only_the_first_eight_samples_are_looked_at():
    model = model_of("vision")
    batch = random_batch(model.config, size=11)
    assert look(model, batch) == look(model, batch.take(torch.arange(8))) != look(model, batch.take(torch.arange(7)))


@pytest.mark.parametrize("kind", KINDS)
def test_the_training_does_not_notice(kind):
    """Dropout, drop path and layer drop are on: random numbers, modes and gradients are as without the measurement."""
    model = model_of(kind, dropout=0.3, layer_drop=0.3, drop_path=0.3 if kind in ("vision", "mixture") else 0.0)
    batch = random_batch(model.config)
    results = []
    for measured in (False, True):
        torch.manual_seed(5)
        modes = [module.training for module in model.modules()]
        found = [look(model), look(model)] if measured else []
        assert [module.training for module in model.modules()] == modes and model.student.training
        model.zero_grad()
        loss = model(batch, batch.masks.sum(), shared_seed=3).loss
        loss.backward()
        gradients = [p.grad.clone() for p in model.student.parameters() if p.grad is not None]
        results.append([loss.detach(), torch.get_rng_state(), *gradients])
    assert found[0] == found[1], "evaluation mode draws nothing"
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_an_evaluated_model_stays_one():
    model = model_of("vision").eval()
    look(model)
    assert not model.student.training


@pytest.mark.parametrize("fails", [False, True])
def test_hooks_are_gone_and_the_mode_is_back_whatever_happens(fails, monkeypatch):
    model = model_of("speech")
    monkeypatch.setattr(model.teacher.encoder.blocks[1], "forward", (lambda *_: 1 / 0) if fails else torch.add)
    if not fails:
        monkeypatch.undo()
    with pytest.raises(ZeroDivisionError) if fails else torch.no_grad():
        look(model)
    assert not any(module._forward_hooks for module in model.modules())
    assert model.training and model.student.encoder.training and not model.teacher.encoder.training


def test_every_rank_gets_the_mean_over_ranks(monkeypatch):
    model = model_of("vision")
    alone = look(model)
    monkeypatch.setattr(distributed, "world", lambda: 4)
    monkeypatch.setattr(distributed, "all_sum", lambda tensor: tensor + 6)  # what three others found
    for name, health in look(model).items():
        assert (health.std, health.rank) == pytest.approx(((alone[name].std + 6) / 4, (alone[name].rank + 6) / 4))


def test_a_compiled_block_is_measured_and_not_compiled_anew():
    model, compiled = model_of("vision"), []
    batch, plain = random_batch(model.config), look(model)
    model.teacher.encoder.blocks[1].compile(backend=lambda graph, _: compiled.append(graph) or graph.forward)
    model.features(batch)
    model.config.model.compile = True
    assert look(model, batch) == plain
    model.features(batch)
    assert len(compiled) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_no_alarm_in_healthy_training(kind):
    train(model_of(kind), 30, CollapseGuard(GuardConfig()))


@pytest.mark.parametrize("steps", [0, 12])
def test_a_collapsed_feature_encoder_is_named_first_while_the_loss_looks_fine(steps):
    """From the start of a run, and after some steps."""
    model, guard = model_of("speech"), CollapseGuard(GuardConfig())
    before = train(model, 1)
    if steps:
        before = train(model, steps, guard)
    collapse(model)
    after = train(model, 3)
    first, *others = guard.check_modules(300, look(model))
    assert first.startswith("student.feature_encoder has collapsed at step 300: standard deviation over tokens ")
    assert isfinite(after) and after < before
    assert not [line for line in others if "feature_encoder" in line]


@pytest.mark.parametrize("kind", ["vision", "text"])
def test_collapsed_embeddings_are_named_first(kind):
    model, guard = model_of(kind), CollapseGuard(GuardConfig())
    assert not guard.check_modules(0, look(model))
    model.student.get_submodule(FIRST[kind]).weight.data.mul_(1e-4)
    lines = guard.check_modules(1, look(model))
    assert lines[0].startswith(f"student.{FIRST[kind]} has collapsed at step 1")
    followed = [line for line in lines if line.startswith("teacher")]
    assert all("between positions" in line for line in followed), "the teacher's own weights have not followed yet"
    assert bool(followed) == (kind == "text"), "its embedding is the student's, and so are its positions"


def test_blocks_whose_tokens_share_a_direction_are_found_by_their_rank():
    model, guard = model_of("text", norm="post"), CollapseGuard(GuardConfig())
    assert not guard.check_modules(0, look(model))
    gain = torch.zeros(32)
    gain[3] = 30.0
    model.student.encoder.blocks[1].norm2.weight.data.copy_(gain)
    [line] = [line for line in guard.check_modules(7, look(model)) if "blocks.1" in line]
    assert line == "student.encoder.blocks.1 has collapsed at step 7: effective rank 1 (guard.min_module_rank=1.2)"


def test_a_teacher_that_says_only_where_a_token_is_is_found():
    """Positions outweigh the patches: tokens vary as before, targets are easy to predict, and nothing is learnt."""
    model, guard = make_objective(tiny_config(objective="v2")).train(), CollapseGuard(GuardConfig())
    assert not guard.check_modules(0, look(model))
    for positions in (module for module in model.modules() if isinstance(module, FixedPositions)):
        positions.table.mul_(100)
    lines = guard.check_modules(7, look(model))
    assert [line.split()[0] for line in lines] == blocks("teacher.encoder.")
    assert "of its variance is between samples, the rest between positions" in lines[0]
    assert "(guard.min_sample_share=0.05)" in lines[0]
    assert not CollapseGuard(GuardConfig(min_sample_share=0)).check_modules(7, look(model))


def test_lines_say_what_was_measured_and_come_in_the_order_of_the_forward_pass():
    guard = CollapseGuard(GuardConfig())
    assert guard.check_modules(100, {"student.b": ModuleHealth(0.58, 9), "student.a": HEALTHY}) == []
    collapsed = {"student.b": ModuleHealth(0.0123, 9), "student.a": ModuleHealth(1.2e-05, 9)}
    assert guard.check_modules(300, collapsed) == [
        "student.b has collapsed at step 300: standard deviation over tokens 0.012, at first 0.58 "
        "(guard.min_module_std=0.05 of it)",
        "student.a has collapsed at step 300: standard deviation over tokens 1.2e-05, less than 0.0001 "
        "(guard.min_module_std=0 turns this off)",
    ]


def test_a_module_is_named_once_and_again_after_it_recovered():
    guard = CollapseGuard(GuardConfig())
    course = [0.5, 0.01, 0.01, float("nan"), 0.01, 0.4, 0.01, 0.0]
    said = [len(guard.check_modules(step, {"m": ModuleHealth(std, 9)})) for step, std in enumerate(course)]
    assert said == [0, 1, 0, 0, 0, 0, 1, 0]


def test_what_starts_collapsed_is_no_reference():
    guard = CollapseGuard(GuardConfig())
    course = [float("nan"), 1e-8, 0.5, 0.02, 0.3]
    said = [len(guard.check_modules(step, {"m": ModuleHealth(std, 9)})) for step, std in enumerate(course)]
    assert said == [0, 1, 0, 1, 0]


def test_a_shared_block_has_a_reference_for_each_modality():
    guard = CollapseGuard(GuardConfig())
    for step, (modality, std) in enumerate([("speech", 0.8), ("vision", 0.03), ("speech", 0.7)]):
        assert guard.check_modules(step, {"teacher.blocks.0": ModuleHealth(std, 9)}, modality) == []
    [line] = guard.check_modules(9, {"teacher.blocks.0": ModuleHealth(0.03, 9)}, "speech")
    assert line.startswith("teacher.blocks.0 has collapsed on speech at step 9: standard deviation over tokens 0.03, ")


@pytest.mark.parametrize(
    ("name", "early"),
    [("student.encoder.blocks.11", False), ("student.blocks.0", False), ("teacher.encoder.blocks.11", True),
     ("student.feature_encoder", True)],
)  # fmt: skip
def test_students_that_still_predict_the_mean_have_not_collapsed(name, early):
    """As measured in the first hundred steps of 12 post-norm blocks of speech, whose loss fell all the while."""
    guard, health = CollapseGuard(GuardConfig()), {name: ModuleHealth(0.0122, 36)}
    guard.check_modules(1, {name: ModuleHealth(0.664, 81)})
    assert bool(guard.check_modules(5000, health)) is early
    assert len(guard.check_modules(5001, health)) == 1 - early
    guard = CollapseGuard(GuardConfig())
    assert len(guard.check_modules(1, {name: ModuleHealth(1e-5, 36)})) == 1, "the floor holds from the start"


def test_thresholds_can_be_turned_off():
    guard = CollapseGuard(GuardConfig(min_module_std=0, min_module_rank=1))
    assert guard.check_modules(1, {"m": HEALTHY}) == guard.check_modules(2, {"m": ModuleHealth(1e-9, 1.0)}) == []


def test_targets_and_predictions_are_judged_after_the_published_updates_and_each_said_once():
    guard = CollapseGuard(GuardConfig())
    assert guard.check_spread(5000, 5000, "speech", 0.05, 0.005) == []
    lines = guard.check_spread(5003, 5001, "speech", 0.05, 0.005)
    assert lines == [
        "speech targets have collapsed at step 5003: standard deviation over tokens 0.05 (guard.min_target_std=0.1)",
        "speech predictions have collapsed at step 5003: standard deviation over tokens 0.005 "
        "(guard.min_prediction_std=0.01)",
    ]
    assert guard.check_spread(5004, 5002, "speech", 0.05, 0.005) == []
    assert len(guard.check_spread(5005, 5003, "vision", 0.05, 0.5)) == 1
    assert guard.check_spread(5006, 5004, "speech", 0.4, 0.3) == []
    assert len(guard.check_spread(5007, 5005, "speech", 0.4, 0.005)) == 1
    off = CollapseGuard(GuardConfig(min_target_std=0, min_prediction_std=0))
    assert off.check_spread(9999, 9999, "vision", 0.0, 0.0) == []


def test_a_resumed_guard_decides_as_the_first_one():
    guard, course = CollapseGuard(GuardConfig(std_after=0)), [0.5, 0.01, 0.01, 0.4, 0.01]
    for step in range(2):
        guard.check_modules(step, {"m": ModuleHealth(course[step], 9)}, "speech")
    guard.check_spread(2, 2, "speech", 0.05, 0.5)
    resumed = CollapseGuard(GuardConfig(std_after=0))
    resumed.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    for step in range(2, 5):
        health = {"m": ModuleHealth(course[step], 9), "new": HEALTHY}
        assert resumed.check_modules(step, health, "speech") == guard.check_modules(step, health, "speech")
    assert resumed.check_spread(3, 3, "speech", 0.05, 0.5) == guard.check_spread(3, 3, "speech", 0.05, 0.5) == []
    assert resumed.state_dict() == guard.state_dict()


def test_a_collapse_that_was_borne_stops_a_run_that_is_to_stop():
    """guard.collapse=warn names it; then the same run goes on with guard.collapse=stop."""
    health, low = {"m": ModuleHealth(0.01, 9)}, ("speech", 0.05, 0.5)
    warned = CollapseGuard(GuardConfig(collapse="warn", std_after=0))
    warned.check_modules(0, {"m": HEALTHY})
    assert len(warned.check_modules(1, health) + warned.check_spread(1, 1, *low)) == 2
    for collapse, lines in (("warn", 0), ("stop", 2)):
        resumed = CollapseGuard(GuardConfig(collapse=collapse, std_after=0))
        resumed.load_state_dict(warned.state_dict())
        for step in (2, 3):  # the second time: the run was started once more
            assert len(resumed.check_modules(step, health) + resumed.check_spread(step, step, *low)) == lines

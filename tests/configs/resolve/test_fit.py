"""A neutral recipe's model, batch and samples, from the amount of data and the device."""

import pytest

from configs.checks.run import check
from configs.compose import compose_pretrain
from configs.resolve.fit import NEUTRAL, DataSize, Device, micro, scale

CPU, GPU = Device(1), Device(1, memory_gib=80, cores=16)


def composed(modality, data: DataSize, device: Device, *own: str):
    sizes = [f"{key}={value}" for key, value in scale(modality, data, device).items()]
    config = compose_pretrain([f"recipe={modality}", *sizes, *own])
    batch = [f"{key}={value}" for key, value in micro(config.for_modality(modality), device).items()]
    return compose_pretrain([f"recipe={modality}", *sizes, *batch, *own])


@pytest.mark.parametrize("modality", NEUTRAL)
@pytest.mark.parametrize("device", [CPU, Device(3), Device(6, 8, 4), Device(64, 80, 16)])
def test_what_is_chosen_can_run(modality, device: Device) -> None:
    for samples in (3, 1000, 2_000_000):
        check(composed(modality, DataSize(samples, 100), device), device.ranks)


@pytest.mark.parametrize(
    ("samples", "model", "batch", "steps", "data"),
    [
        (1_000, "small", 64, 1_562, "small"),
        (10_000, "small", 128, 7_812, "small"),
        (100_000, "medium", 256, 39_062, "large"),
        (1_300_000, "base", 1024, 100_000, "large"),
    ],
)
def test_more_data_is_a_larger_model_batch_and_run(samples, model, batch, steps, data) -> None:
    """The presets of docs/recipes.md."""
    found = scale("vision", DataSize(samples, 300), GPU)
    assert (found["model"], found["batch.global"], found["train.steps"], found["data"]) == (model, batch, steps, data)
    assert found["vision.image_size"] == 224


def test_no_batch_is_larger_than_the_published_one_or_a_tenth_of_the_data() -> None:
    most = {modality: scale(modality, DataSize(10**9), GPU)["batch.global"] for modality in NEUTRAL}
    assert most == {"vision": 2048, "speech": 320, "text": 256}
    for device in (CPU, GPU):
        assert [scale("text", DataSize(n), device)["batch.global"] for n in (5, 50, 200, 640)] == [1, 4, 16, 64]


@pytest.mark.parametrize("modality", NEUTRAL)
def test_a_cpu_gets_the_least_of_each(modality) -> None:
    config = composed(modality, DataSize(10**6, 3000), CPU)
    assert (config.model.size, config.batch.global_, config.train.steps) == (
        "tiny",
        32 if modality == "speech" else 64,
        1000,
    )
    assert (config.vision.image_size, config.speech.max_seconds, config.text.max_tokens) == {
        "vision": (64, 20, 512), "speech": (224, 4, 512), "text": (224, 20, 128)
    }[modality]  # fmt: skip


@pytest.mark.parametrize(("median", "side"), [(20, 32), (32, 32), (45, 32), (70, 64), (130, 128), (500, 224)])
def test_images_are_cropped_to_the_size_that_most_have(median: int, side: int) -> None:
    assert scale("vision", DataSize(5000, median), GPU)["vision.image_size"] == side


def test_the_micro_batch_follows_the_memory_and_the_users_model() -> None:
    many = DataSize(2_000_000, 300)
    sizes = {memory: composed("vision", many, Device(1, memory, 8)).batch.micro for memory in (4, 8, 16, 80)}
    assert sizes == {4: 16, 8: 32, 16: 64, 80: 512}
    one_pass = {
        memory: composed("vision", many, Device(1, memory, 8), "objective=v1").batch.micro for memory in (4, 16)
    }
    assert one_pass == {4: 32, 16: 128}
    assert composed("vision", many, Device(1, 8, 8), "model=large").batch.micro == 16
    text = composed("text", many, Device(1, 16, 8))
    assert text.batch.micro == text.batch.global_ and 20_000 < text.batch.micro_tokens < 30_000
    assert composed("speech", many, Device(1, 1, 8)).batch.micro_tokens == 999, "the longest clip has to fit"

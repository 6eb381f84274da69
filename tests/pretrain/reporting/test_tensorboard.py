"""TensorBoard files are read back from disk with TensorBoard's own reader."""

import errno
import io
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.compose import compose_pretrain
from pretrain.reporting import tensorboard
from pretrain.reporting.metrics import MetricsRow, ProbeResult
from pretrain.reporting.pictures import images_picture, spectrograms_picture
from pretrain.reporting.tensorboard import Board
from tests.pretrain.reporting.test_pictures import TOKENIZER, clips, image_batch, texts

NAMED = {
    "bad_kinds": {"decode": 99},
    **{
        f"module_{name}": {"student.blocks.0": value}
        for name, value in (("std", 98), ("rank", 97), ("sample_share", 96))
    },
}


OPTIONAL = {"loss_scale", *NAMED}


NUMBERS = {f.name: 0.5 for f in fields(MetricsRow) if f.name not in OPTIONAL | {"step", "modality"}}


CONFIG = compose_pretrain(["recipe=demo"])


ROW = MetricsRow(step=1, modality="vision", **NUMBERS)


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars("loss")]


def write(folder: Path, resume_step: int, steps: range, loss: float) -> None:
    board = Board(folder, resume_step)
    for step in steps:
        board.write(replace(ROW, step=step, loss=loss))
    board.close()


def test_every_figure_of_a_row_has_a_tag(tmp_path):
    board = Board(tmp_path, 0)
    numbered = {field: float(i) for i, field in enumerate([*NUMBERS, "loss_scale"])}
    board.write(MetricsRow(step=3, modality="vision", **numbered, **NAMED))
    events = read(tmp_path)  # before close: rows are flushed
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
    health = {"std": 98, "rank": 97, "sample_share": 96}
    tags = {"data/bad/decode": 99, **{f"health/{name}/student.blocks.0": value for name, value in health.items()}}
    assert {tag: scalars.pop(tag)[0].value for tag in tags} == tags
    assert {tag.rsplit("/", 1)[-1] for tag in scalars} == ({*numbered} - {"teacher_decay"}) | {"decay"}
    assert sorted(event.value for [event] in scalars.values()) == sorted(numbered.values())
    assert {event.step for [event] in scalars.values()} == {3}


def test_a_figure_that_is_none_is_left_out(tmp_path):
    board = Board(tmp_path, 0)
    board.write(replace(ROW, mfu=None))
    board.close()
    board.close()
    tags = read(tmp_path).Tags()["scalars"]
    assert "speed/mfu" not in tags and "optimizer/loss_scale" not in tags and "loss" in tags


def test_resume_hides_the_steps_beyond_the_checkpoint(tmp_path):
    write(tmp_path, 0, range(1, 9), loss=1.0)
    write(tmp_path, 5, range(6, 8), loss=2.0)
    assert losses(tmp_path) == [(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 2), (7, 2)]


def test_a_new_start_hides_everything_before(tmp_path):
    write(tmp_path, 0, range(0, 4), loss=1.0)
    write(tmp_path, 0, range(1, 3), loss=2.0)
    assert losses(tmp_path) == [(1, 2), (2, 2)]


def test_resume_after_a_kill_that_left_half_an_event(tmp_path):
    write(tmp_path, 0, range(1, 5), loss=1.0)
    [file] = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-7])
    write(tmp_path, 3, range(4, 6), loss=2.0)
    assert losses(tmp_path) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2)]


def test_probe_and_config(tmp_path):
    board = Board(tmp_path, 0)
    board.write_probe(0, ProbeResult("vision", 0.25, 0.5, 0.75, 1.0, k=20, train_samples=50, test_samples=20))
    board.write_config(0, CONFIG, "model:\n  width: 128\n")
    board.close()
    events = read(tmp_path)
    assert [e.value for e in events.Scalars("probe/knn_top1")] == [0.25]
    assert {tag for tag in events.Tags()["scalars"]} == {
        "probe/knn_top1",
        "probe/linear_top1",
        "probe/baseline_knn_top1",
        "probe/baseline_linear_top1",
    }
    [text] = events.Tensors("config/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "```yaml\nmodel:\n  width: 128\n```"


def test_in_a_mixture_every_tag_ends_with_the_modality(tmp_path):
    board = Board(tmp_path, 0, mixture=True, tokenizer=TOKENIZER)
    for modality, loss in (("vision", 1.0), ("speech", 2.0)):
        board.write(replace(ROW, modality=modality, loss=loss))
    board.write_probe(1, ProbeResult("text", 0.25, 0.5, 0.75, 1.0, k=20, train_samples=50, test_samples=20))
    for batch in (image_batch(torch.zeros(1, 3, 28, 28, dtype=torch.uint8), torch.arange(49) < 20), clips(), texts()):
        board.write_picture(1, batch)
    board.close()
    events = read(tmp_path)
    assert events.Scalars("loss/speech")[0].value == 2 and events.Scalars("loss/vision")[0].value == 1
    assert events.Scalars("probe/knn_top1/text")[0].value == 0.25
    assert set(events.Tags()["images"]) == {"masked_batch/vision", "masked_batch/speech"}
    assert "masked_batch/text/text_summary" in events.Tags()["tensors"]


@pytest.mark.parametrize("modality", ["vision", "speech"])
def test_picture_in_the_event_file_is_the_picture_of_the_batch(tmp_path, modality):
    images = torch.randint(256, (3, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = image_batch(images, torch.arange(49) < 20) if modality == "vision" else clips()
    board = Board(tmp_path, 0)
    board.write_picture(7, batch)
    board.close()
    [event] = read(tmp_path).Images("masked_batch")
    png = Image.open(io.BytesIO(event.encoded_image_string))
    pixels = torch.frombuffer(bytearray(png.tobytes()), dtype=torch.uint8)
    expected = images_picture(batch) if modality == "vision" else spectrograms_picture(batch)
    assert event.step == 7 and (event.height, event.width) == tuple(expected.shape[1:])
    assert torch.equal(pixels.view(event.height, event.width, 3), expected.permute(1, 2, 0))


def test_text_without_a_tokenizer_has_no_picture(tmp_path):
    board = Board(tmp_path, 0)
    board.write_picture(7, texts())
    board.close()
    assert not read(tmp_path).Tags()["tensors"]


def test_a_full_disk_costs_figures_and_not_the_run(tmp_path, monkeypatch, caplog):
    writer = Board(tmp_path, 0)
    writer.write(replace(ROW, step=1))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(writer._writer, "flush", full)
        patch.setattr(tensorboard, "SummaryWriter", full)
        for step in (2, 3):
            writer.write(replace(ROW, step=step))
        writer.write_config(3, CONFIG, "a: 1")
    assert caplog.text.count("No space left on device") == 1, "said once"
    writer.write(replace(ROW, step=4))
    writer.close()
    steps = [step for step, _ in losses(tmp_path)]
    assert steps[0] == 1 and steps[-1] == 4 and 3 not in steps

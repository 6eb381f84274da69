"""TensorBoard files are read back from disk with TensorBoard's own reader."""

import io
import json
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen

import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_shards.batch import MaskedBatch
from pretrain.board import Board, jitter_colors, masked_batch_picture
from pretrain.metrics import MetricsRow, ProbeResult

NUMBERS = {f.name: 0.5 for f in fields(MetricsRow) if f.name not in ("step", "modality", "loss_scale")}
ROW = MetricsRow(step=1, modality="vision", **NUMBERS)
IDENTITY = torch.eye(3, 4)


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder)).Reload()


def losses(folder: Path) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars("loss")]


def write(folder: Path, resume_step: int, steps: range, loss: float) -> None:
    board = Board(folder, resume_step)
    for step in steps:
        board.write(replace(ROW, step=step, loss=loss))
    board.close()


def batch_of(inputs: torch.Tensor, mask: torch.Tensor, color: torch.Tensor = IDENTITY) -> MaskedBatch:
    count = len(inputs)
    return MaskedBatch("vision", inputs, color.expand(count, 3, 4), mask.expand(count, -1), torch.arange(count))


def test_every_figure_of_a_row_has_a_tag(tmp_path):
    board = Board(tmp_path, 0)
    numbered = {field: float(i) for i, field in enumerate([*NUMBERS, "loss_scale"])}
    board.write(MetricsRow(step=3, modality="vision", **numbered))
    events = read(tmp_path)  # before close: rows are flushed
    scalars = {tag: events.Scalars(tag) for tag in events.Tags()["scalars"]}
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
    board.write_probe(0, ProbeResult(0.25, 0.5, 0.75, 1.0, k=20, train_samples=50, test_samples=20))
    board.write_config(0, "model:\n  width: 128\n")
    board.close()
    events = read(tmp_path)
    assert [e.value for e in events.Scalars("probe/knn_top1")] == [0.25]
    assert {tag for tag in events.Tags()["scalars"]} == {
        "probe/knn_top1",
        "probe/linear_top1",
        "probe/pixels_knn_top1",
        "probe/pixels_linear_top1",
    }
    [text] = events.Tensors("config/text_summary")
    assert text.tensor_proto.string_val[0].decode() == "```yaml\nmodel:\n  width: 128\n```"


def test_picture_in_the_event_file_is_the_picture_of_the_batch(tmp_path):
    images = torch.randint(256, (3, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = batch_of(images, torch.arange(49) < 20)
    board = Board(tmp_path, 0)
    board.write_picture(7, batch)
    board.close()
    [event] = read(tmp_path).Images("masked_batch")
    png = Image.open(io.BytesIO(event.encoded_image_string))
    pixels = torch.frombuffer(bytearray(png.tobytes()), dtype=torch.uint8)
    expected = masked_batch_picture(batch)
    assert event.step == 7 and (event.height, event.width) == tuple(expected.shape[1:])
    assert torch.equal(pixels.view(event.height, event.width, 3), expected.permute(1, 2, 0))


def test_picture_shows_images_above_and_hides_masked_patches_below():
    images = torch.full((10, 3, 28, 28), 200, dtype=torch.uint8)
    mask = torch.zeros(49, dtype=torch.bool)
    mask[8] = True  # row 1, column 1
    picture = masked_batch_picture(batch_of(images, mask))
    assert picture.dtype == torch.uint8 and picture.shape == (3, 2 * 116, 8 * 116)  # 28 enlarged to 112, frames of 2
    above, below = picture.split(116, dim=1)
    changed = (above != below).any(0)
    assert changed[18:34, 18:34].all() and changed.sum() == 8 * 16 * 16  # one patch of 4 x 4 pixels, 4 times enlarged
    assert above[:, 2:114, 2:114].eq(200).all() and above[:, :2].eq(255).all()
    assert len(below[:, 18:34, 18:34].unique()) == 2  # grey, striped


def test_large_images_keep_their_size():
    images = torch.zeros(1, 3, 224, 224, dtype=torch.uint8)
    assert masked_batch_picture(batch_of(images, torch.zeros(196, dtype=torch.bool))).shape == (3, 2 * 228, 228)


def test_colors_are_jittered_as_the_affine_map_says_and_clamped():
    image = torch.tensor([51, 102, 255], dtype=torch.uint8).view(1, 3, 1, 1)  # 0.2, 0.4, 1.0
    color = torch.tensor([[[0.0, 1.0, 0.0, 0.2], [2.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.5]]])
    assert jitter_colors(image, color).flatten().tolist() == [153, 102, 255]
    color[0, 0, 3] = -1.0
    assert jitter_colors(image, color)[0, 0].item() == 0


def test_the_command_names_a_folder_without_files(tmp_path):
    command = [sys.executable, "-m", "pretrain.board", f"run={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.strip() == (
        f"error: run={tmp_path} holds no TensorBoard files: give the folder of a run, or of several"
    )


def test_the_command_serves_the_run(tmp_path):
    write(tmp_path / "demo" / "tensorboard", 0, range(1, 3), loss=1.0)
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "pretrain.board", f"run={tmp_path}/demo", f"port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            assert fetch(f"http://localhost:{port}/data/runs", seconds=60) == ["tensorboard"]
        finally:
            server.terminate()


def fetch(url: str, seconds: float) -> list[str]:
    """The runs that TensorBoard lists once it is up and has read some."""
    deadline = monotonic() + seconds
    while True:
        try:
            if runs := json.load(urlopen(url)):
                return runs
        except URLError:
            pass
        assert monotonic() < deadline, f"no runs at {url} after {seconds} s"
        sleep(0.2)

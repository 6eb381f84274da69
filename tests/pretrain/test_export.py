"""A run's weights as a folder that Transformers loads; what is refused."""

from pathlib import Path

import pytest
import torch
from transformers import Data2VecVisionModel

from configs.command import run as run_command
from configs.compose import to_yaml
from configs.schema import ExportConfig, ModelConfig, PretrainConfig, TeacherConfig, VisionConfig
from models.data2vec import Data2Vec
from pretrain import export as export_module
from pretrain.export import export, main

CONFIG = PretrainConfig(
    model=ModelConfig(layers=2, width=16, heads=2, ffn=32),
    vision=VisionConfig(image_size=16, patch_size=4),
    teacher=TeacherConfig(layers=1),
)


@pytest.fixture
def run(tmp_path, monkeypatch) -> Path:
    """A run directory whose checkpoint of step 7 holds a teacher of ones and a student as drawn."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(to_yaml(CONFIG))
    student = Data2Vec(CONFIG).student.state_dict()
    states = {"student": student, "teacher": {name: torch.ones_like(tensor) for name, tensor in student.items()}}
    monkeypatch.setattr(export_module, "load_weights", lambda folder, weights: (states[weights], 7))
    return tmp_path / "run"


@pytest.mark.parametrize("weights", ["teacher", "student"])
def test_transformers_loads_the_weights_that_were_asked_for(run, tmp_path, capsys, weights):
    out = tmp_path / "deep" / "out"
    main(ExportConfig(run=str(run), out=str(out), weights=weights))
    model, report = Data2VecVisionModel.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    cls = model.embeddings.cls_token
    assert torch.equal(cls, torch.ones_like(cls) if weights == "teacher" else Data2Vec(CONFIG).student.tokens.cls)
    assert model(torch.zeros(1, 3, 16, 16)).last_hidden_state.shape == (1, 17, 16)
    printed = capsys.readouterr().out
    assert f"{weights} weights of step 7" in printed and "model.safetensors" in printed
    lines = [line.strip() for line in printed.partition("Load them with:\n")[2].splitlines()]
    exec("\n".join(lines), {"pixel_values": torch.zeros(1, 3, 16, 16)})  # what it says about loading is true
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_taken_and_a_full_one_refused(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    command = ExportConfig(run=str(run), out=str(out))
    assert export(command) == 7
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=f"out={out} is not empty: name a new folder"):
        export(command)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(folder, state, config):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(export_module, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        export(ExportConfig(run=str(run), out=str(tmp_path / "out")))
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def command(capsys, *arguments: str) -> tuple[int, str]:
    """Exit code and standard error of `python -m pretrain.export`."""
    with pytest.raises(SystemExit) as ended:
        run_command(ExportConfig, main, list(arguments))
    return ended.value.code, capsys.readouterr().err.strip()


def test_mistakes_are_one_line(tmp_path, capsys):
    usage = command(capsys, "run=x", "out=y", "weight=teacher")
    assert usage == (2, "error: unknown key 'weight': did you mean 'weights'?")
    code, error = command(capsys, f"run={tmp_path}/none", f"out={tmp_path}/out")
    assert code == 1 and error.startswith(f"error: {tmp_path}/none/config.yaml: No such file")
    (tmp_path / "config.yaml").write_text(to_yaml(CONFIG))
    code, error = command(capsys, f"run={tmp_path}", f"out={tmp_path}/out", "weights=teacher")
    assert code == 1 and error.startswith(f"error: run={tmp_path} has no complete checkpoint")

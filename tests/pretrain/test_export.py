"""A run's weights as a folder that Transformers loads; what is refused."""

import math
import os
from pathlib import Path

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel

from configs.command import run as run_command
from configs.compose import to_yaml
from configs.schema import PretrainConfig
from configs.schema_commands import ExportConfig
from configs.schema_modalities import MODALITIES, SpeechConfig, TextConfig, VisionConfig
from configs.schema_objective import TeacherConfig
from configs.schema_training import MixtureConfig, ModelConfig
from data_shards.text.tokenizer import train_tokenizer
from models import huggingface
from models.data2vec import Data2Vec
from pretrain.checkpoints import reading
from pretrain.export import export, main
from tests.own import odd_rights

TOKENIZER = train_tokenizer(["some text of a few words"], 300)
SPOT = {"vision": "embeddings.cls_token", "speech": "masked_spec_embed", "text": "embeddings.LayerNorm.bias"}
"""Of each model a parameter that is not all ones at the start."""


def config_of(modality, **mixture) -> PretrainConfig:
    return PretrainConfig(
        modality=modality,
        model=ModelConfig(layers=2, width=16, heads=2, ffn=32),
        vision=VisionConfig(image_size=16, patch_size=4),
        speech=SpeechConfig(conv_width=8, position_layers=2, position_kernel=3, position_groups=2),
        text=TextConfig(vocab_size=TOKENIZER.vocab_size, max_tokens=16),
        teacher=TeacherConfig(layers=1),
        mixture=MixtureConfig(**mixture),
    )


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    """A run directory whose checkpoint of step 7 holds a teacher of ones and a student as drawn."""

    def make(config: PretrainConfig) -> Path:
        folder = tmp_path / "run"
        folder.mkdir()
        (folder / "config.yaml").write_text(to_yaml(config))
        student = Data2Vec(config).student.state_dict()
        states = {"student": student, "teacher": {name: torch.ones_like(tensor) for name, tensor in student.items()}}
        monkeypatch.setattr(reading, "load_weights", lambda folder, weights: (states[weights], 7))
        if "text" in config.modalities:
            TOKENIZER.save(folder / "tokenizer")
        return folder

    return make


@pytest.mark.parametrize("weights", ["teacher", "student"])
@pytest.mark.parametrize("modality", MODALITIES)
def test_transformers_loads_the_weights_that_were_asked_for(make_run, tmp_path, capsys, modality, weights):
    run, out = make_run(config_of(modality)), tmp_path / "deep" / "out"
    main(ExportConfig(run=str(run), out=str(out), weights=weights))
    model, report = AutoModel.from_pretrained(out, output_loading_info=True)
    assert set(report["unexpected_keys"]) <= {"lm_head.bias"} and not {
        key for key in report["missing_keys"] if "pooler" not in key
    }
    parameter = model.get_parameter(SPOT[modality])
    assert torch.equal(parameter, torch.ones_like(parameter)) == (weights == "teacher")
    printed = capsys.readouterr().out
    assert f"{modality} {weights} weights of step 7" in printed and "model.safetensors" in printed
    lines = [line.strip() for line in printed.partition("Load them with:\n")[2].splitlines()]
    names = {"pixel_values": torch.zeros(1, 3, 16, 16), "waveform": torch.randn(1000).numpy()}
    exec("\n".join(lines), names)  # what it says about loading is true
    tokens = {"vision": 17, "speech": 2, "text": len(TOKENIZER.encode("some text")) + 2}[modality]
    assert names["hidden"].shape == (1, tokens, 16)
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_others_may_read_what_the_umask_grants(make_run, tmp_path, umask):
    before = os.umask(umask)
    try:
        export(ExportConfig(run=str(make_run(config_of("text"))), out=str(tmp_path / "new" / "out")))
        assert len(list((tmp_path / "new" / "out").iterdir())) > 3 and odd_rights(tmp_path / "new") == {}
    finally:
        os.umask(before)


@pytest.mark.parametrize("modality", MODALITIES)
def test_no_task_model_begins_with_what_memory_happened_to_hold(make_run, tmp_path, modality):
    """Every head that Transformers has for the folder: uninitialised memory is filled with NaN here."""
    export(ExportConfig(run=str(make_run(config_of(modality))), out=str(tmp_path / "out")))
    kind = AutoConfig.from_pretrained(tmp_path / "out").__class__
    heads = [name for name in dir(transformers) if name.startswith("AutoModel") and kind in mapped(name)]
    assert len(heads) >= 3
    for name in heads:
        torch.use_deterministic_algorithms(True)
        try:
            model = getattr(transformers, name).from_pretrained(tmp_path / "out")
        finally:
            torch.use_deterministic_algorithms(False)
        values = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        assert [key for key, value in values.items() if not torch.isfinite(value).all()] == [], name


def mapped(name: str) -> list[type]:
    """Configurations for which an AutoModel class has a model."""
    mapping = getattr(getattr(transformers, name), "_model_mapping", None)
    return [] if mapping is None else list(mapping.keys())


def test_a_masked_language_model_can_be_trained_from_the_folder(make_run, tmp_path):
    export(ExportConfig(run=str(make_run(config_of("text"))), out=str(tmp_path / "out")))
    torch.use_deterministic_algorithms(True)
    try:
        model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    finally:
        torch.use_deterministic_algorithms(False)
    tokens = torch.tensor([[0, 5, 6, 7, 2]])
    loss = model(input_ids=tokens, labels=tokens).loss
    assert abs(loss.item() - math.log(TOKENIZER.vocab_size)) < 3


def test_the_modality_of_a_mixture(make_run, tmp_path):
    run = make_run(config_of(("vision", "speech"), blocks="separate"))
    with pytest.raises(ValueError, match="has several modalities .*vision.*: add modality="):
        export(ExportConfig(run=str(run), out=str(tmp_path / "out")))
    with pytest.raises(ValueError, match=f"modality=text is not in run={run}"):
        export(ExportConfig(run=str(run), out=str(tmp_path / "out"), modality="text"))
    assert export(ExportConfig(run=str(run), out=str(tmp_path / "out"), modality="speech")) == ("speech", 7)
    assert type(AutoModel.from_pretrained(tmp_path / "out")).__name__ == "Data2VecAudioModel"


def test_what_transformers_cannot_hold_is_refused(make_run, tmp_path):
    """A mixture's shared blocks are pre-norm unless told otherwise."""
    run = make_run(config_of(("vision", "speech")))
    with pytest.raises(ValueError, match="model.norm=pre: .*Data2VecAudioModel .*mixture.blocks=separate"):
        export(ExportConfig(run=str(run), out=str(tmp_path / "out"), modality="speech"))
    assert export(ExportConfig(run=str(run), out=str(tmp_path / "out"), modality="vision")) == ("vision", 7)


def test_a_missing_tokenizer_is_named(make_run, tmp_path):
    run = make_run(config_of("text"))
    for file in (run / "tokenizer").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match=f"{run}/tokenizer has no vocab.json"):
        export(ExportConfig(run=str(run), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_is_taken_and_a_full_one_refused(make_run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    command = ExportConfig(run=str(make_run(config_of("vision"))), out=str(out))
    assert export(command) == ("vision", 7)
    files = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(ValueError, match=f"out={out} is not empty: name a new folder"):
        export(command)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == files


def test_a_failed_export_leaves_nothing(make_run, tmp_path, monkeypatch):
    def fail(folder, *_):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(huggingface, "save_pretrained", fail)
    with pytest.raises(OSError, match="No space left"):
        export(ExportConfig(run=str(make_run(config_of("vision"))), out=str(tmp_path / "out")))
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
    assert code == 2 and error.startswith(f"error: {tmp_path}/none/config.yaml: No such file")
    (tmp_path / "config.yaml").write_text(to_yaml(config_of("vision")))
    code, error = command(capsys, f"run={tmp_path}", f"out={tmp_path}/out", "weights=teacher")
    assert code == 2 and error.startswith(f"error: run={tmp_path} has no complete checkpoint")

"""`init=DIR`: a Hugging Face folder, a run, a mixture's run, and what is refused."""

import pytest
import torch

from configs.compose import compose_pretrain, to_yaml
from configs.schema_modalities import MODALITIES
from data_shards.making.writer import save_folder_index
from data_shards.shards.index_file import FolderIndex, ShardEntry
from data_shards.text.tokenizer import train_tokenizer
from models.data2vec import Data2Vec, part_state
from models.huggingface import save_pretrained
from pretrain import start_weights
from pretrain.start_weights import load_student
from tests.own import own

SMALL = [
    *("model.layers=2", "model.width=16", "model.heads=2", "model.ffn=32", "teacher.layers=2"),
    *("speech.conv_width=8", "speech.position_groups=2", "text.vocab_size=300", "text.max_tokens=16"),
]
MIXTURE = "modality=[vision,speech]"


def model(*overrides: str) -> Data2Vec:
    config = compose_pretrain([*SMALL, *overrides])
    return Data2Vec(config)


@pytest.fixture
def run_of(tmp_path, monkeypatch):
    """A run directory whose checkpoint of step 7 holds the model's student."""

    def make(source: Data2Vec):
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "config.yaml").write_text(to_yaml(source.config))
        monkeypatch.setattr(start_weights, "load_weights", lambda folder, weights: (source.student.state_dict(), 7))
        return tmp_path

    return make


def check_started(target: Data2Vec, theirs: dict[str, torch.Tensor], but: tuple[str, ...] = ()) -> None:
    """The student is `theirs`, weights that start with `but` aside; the teacher is its copy, whatever it averages."""
    own = target.student.state_dict()
    for name, values in own.items():
        if values.count_nonzero():  # biases are zeros in both
            assert torch.equal(values, theirs[name]) != name.startswith(but or ("none",)), name
    assert target.tracked() and all(torch.equal(student, teacher) for _, student, teacher in target.tracked())


@pytest.mark.parametrize("modality", MODALITIES)
def test_student_and_teacher_start_from_a_hugging_face_folder(tmp_path, modality):
    source, target = model(f"modality={modality}", "train.seed=1"), model(f"modality={modality}", "train.seed=2")
    save_pretrained(tmp_path, source.student.state_dict(), own(source.config))
    line = load_student(target, str(tmp_path))
    assert f"Hugging Face folder {tmp_path}; not in it: head." in line
    check_started(target, source.student.state_dict(), but=("head.",))


def test_a_run_gives_its_head_too(run_of):
    source, target = model("modality=text", "train.seed=1"), model("modality=text", "train.seed=2")
    assert load_student(target, str(run_of(source))).endswith("at step 7")
    check_started(target, source.student.state_dict())


@pytest.mark.parametrize("blocks", ["shared", "separate"])
def test_a_mixture_starts_a_mixture_and_one_of_its_modalities(run_of, blocks):
    source = model(MIXTURE, f"mixture.blocks={blocks}", "train.seed=1")
    folder = str(run_of(source))
    target = model(MIXTURE, f"mixture.blocks={blocks}", "train.seed=2")
    load_student(target, folder)
    check_started(target, source.student.state_dict())
    norm = "pre" if blocks == "shared" else "post"
    alone = model("modality=speech", f"model.norm={norm}", "train.seed=2")
    load_student(alone, folder)
    check_started(alone, part_state(source.student.state_dict(), source.config, "speech"))


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (["modality=vision"], ["modality=speech"], "trained on vision, this .*=speech: give a run of speech"),
        (["modality=vision"], [MIXTURE], "trained on vision, this run has modality=vision,speech"),
        ([MIXTURE], ["modality=text"], "trained on vision,speech, this run has modality=text"),
        ([MIXTURE], ["modality=speech"], "has pre-norm speech blocks, here they are post: set model.norm=pre"),
        ([MIXTURE, "mixture.blocks=separate"], [MIXTURE], "here it is another: set mixture.blocks=separate"),
        (["modality=text"], ["modality=text", "model.norm=deep"], "here they are deep: set model.norm=post"),
        (["modality=text"], ["modality=text", "text.max_tokens=32"], "positions.weight is .18, 16.* same .*text"),
    ],
)  # fmt: skip
def test_runs_of_another_kind_are_refused(run_of, source, target, message):
    with pytest.raises(ValueError, match=message):
        load_student(model(*target), str(run_of(model(*source))))


def test_a_text_run_of_another_tokenizer_is_refused(tmp_path, run_of):
    source, shards = model("modality=text"), tmp_path / "shards"
    folder = run_of(source)
    shards.mkdir()
    target = model("recipe=demo_text", f"data.shards={shards}/train-000000.tar")
    load_student(target, str(folder))  # of tars that others made nothing is known
    theirs, own = (train_tokenizer([text], 300) for text in ("a text " * 9, "another one " * 9))
    entry = ShardEntry("train-000000.tar", 1, 1, "0" * 64, "0" * 64, 1, 1)
    save_folder_index(shards, FolderIndex((entry,), tokenizer=own.entry))
    own.save(folder / "tokenizer")
    load_student(target, str(folder))
    theirs.save(folder / "tokenizer")
    with pytest.raises(ValueError, match=f"than that of data.shards .*build ... tokenizer={folder}/tokenizer"):
        load_student(target, str(folder))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 1e300])
def test_weights_that_are_not_finite_are_refused_before_the_first_step(tmp_path, run_of, value):
    source = model()
    name = "encoder.blocks.1.feed_forward.fc1.weight"
    state = {key: tensor.double() for key, tensor in source.student.state_dict().items()}
    state[name][3, 4] = value
    save_pretrained(tmp_path / "folder", state, own(source.config))
    if value < 1e299 or value == float("inf"):
        source.student.load_state_dict(state)
    else:  # a checkpoint has fp32 only
        state[name][3, 4] = float("nan")
        source.student.load_state_dict(state)
    for folder in (tmp_path / "folder", run_of(source)):
        with pytest.raises(ValueError, match=f"init={folder}: {name} has values that are not finite: start from"):
            load_student(model(), str(folder))


def test_a_run_of_fewer_blocks_does_not_leave_the_rest_at_random(run_of):
    source = model("model.layers=2")
    with pytest.raises(ValueError, match="blocks.2.* is absent there, of .* that this run needs: use the same model="):
        load_student(model("model.layers=3"), str(run_of(source)))


def test_folders_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"init={tmp_path} is no run directory"):
        load_student(model(), str(tmp_path))
    source = model()
    save_pretrained(tmp_path, source.student.state_dict(), own(source.config))
    with pytest.raises(ValueError, match="24"):
        load_student(model("model.width=24"), str(tmp_path))
    with pytest.raises(ValueError, match="holds one modality: a mixture starts from the run directory of a mixture"):
        load_student(model(MIXTURE), str(tmp_path))

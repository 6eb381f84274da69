"""`init=DIR`: a Hugging Face folder, a run, a mixture's run, and what is refused."""

import pytest
import torch

from configs.compose import compose_pretrain, to_yaml
from configs.schema_modalities import MODALITIES
from data_shards.making.writer import save_folder_index
from data_shards.shards.index_file import FolderIndex, ShardEntry
from data_shards.text.tokenizer import train_tokenizer
from data_shards.text.vocabulary import ids_of_types
from models.data2vec import Data2Vec, part_state
from models.huggingface import save_pretrained
from models.layers.resize import resized_offsets
from pretrain import start_weights
from pretrain.start_weights import load_start
from tests.own import own

SMALL = [
    *("model.layers=2", "model.width=16", "model.heads=2", "model.ffn=32", "teacher.layers=2"),
    "vision.patch_size=7",
    *("speech.conv_width=8", "speech.position_groups=2", "text.vocab_size=300", "text.max_tokens=16"),
]
MIXTURE = "modality=[vision,speech]"


WORDS = (
    "tall houses stand beside quiet rivers where children play every summer evening until darkness falls ",
    "small engines carried heavy cargo through narrow valleys towards harbours full of foreign vessels ",
)


def model(*overrides: str) -> Data2Vec:
    objective = [] if any(override.startswith("objective=") for override in overrides) else ["objective=v1"]
    return Data2Vec(compose_pretrain([*SMALL, *objective, *overrides]))


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
    line = load_start(target, str(tmp_path)).line
    assert f"Hugging Face folder {tmp_path}; not in it: head." in line
    check_started(target, source.student.state_dict(), but=("head.",))


def test_a_run_gives_its_head_too(run_of):
    source, target = model("modality=text", "train.seed=1"), model("modality=text", "train.seed=2")
    assert load_start(target, str(run_of(source))).line.endswith("at step 7")
    check_started(target, source.student.state_dict())


@pytest.mark.parametrize("blocks", ["shared", "separate"])
def test_a_mixture_starts_a_mixture_and_one_of_its_modalities(run_of, blocks):
    source = model(MIXTURE, f"mixture.blocks={blocks}", "train.seed=1")
    folder = str(run_of(source))
    target = model(MIXTURE, f"mixture.blocks={blocks}", "train.seed=2")
    load_start(target, folder)
    check_started(target, source.student.state_dict())
    norm = "pre" if blocks == "shared" else "post"
    alone = model("modality=speech", f"model.norm={norm}", "train.seed=2")
    load_start(alone, folder)
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
        (["modality=text"], ["modality=text", "text.vocab_size=310"], "embedding.weight is .300, 16.* same .*text"),
        (["vision.patch_size=7"], ["vision.patch_size=4"], "patch_embedding.weight is .16, 3, 7.* same .*vision"),
    ],
)  # fmt: skip
def test_runs_of_another_kind_are_refused(run_of, source, target, message):
    with pytest.raises(ValueError, match=message):
        load_start(model(*target), str(run_of(model(*source))))


def test_types_of_another_tokenizer_begin_from_those_they_share_or_are_made_of(tmp_path, run_of):
    source, shards = model("modality=text"), tmp_path / "shards"
    folder = run_of(source)
    shards.mkdir()
    target = model("recipe=demo_text", f"data.shards={shards}/train-000000.tar")
    load_start(target, str(folder))  # of tars that others made nothing is known
    theirs, own = (train_tokenizer([text * 9], 300) for text in WORDS)
    entry = ShardEntry("train-000000.tar", 1, 1, "0" * 64, "0" * 64, 1, 1)
    save_folder_index(shards, FolderIndex((entry,), tokenizer=own.entry))
    own.save(folder / "tokenizer")
    load_start(target, str(folder))
    theirs.save(folder / "tokenizer")
    own.save(shards / "tokenizer")
    line = load_start(target, str(folder)).line
    assert "made from other sizes: embedding.weight (300 -> 300 rows)" in line
    before, after = source.student.embedding.weight, target.student.embedding.weight
    shared = [name for name in own.vocab if name in theirs.vocab]
    assert len(shared) > 257 and own.types[270] not in theirs.vocab
    for name in shared:
        torch.testing.assert_close(after[own.vocab[name]], before[theirs.vocab[name]])
    parts = ids_of_types(theirs, own)[270]
    torch.testing.assert_close(after[270], before[parts].mean(0))


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
            load_start(model(), str(folder))


def test_a_run_of_fewer_blocks_does_not_leave_the_rest_at_random(run_of):
    source = model("model.layers=2")
    with pytest.raises(ValueError, match="blocks.2.* is absent there, of .* that this run needs: use the same model="):
        load_start(model("model.layers=3"), str(run_of(source)))


def test_folders_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"init={tmp_path} is no run directory"):
        load_start(model(), str(tmp_path))
    source = model()
    save_pretrained(tmp_path, source.student.state_dict(), own(source.config))
    with pytest.raises(ValueError, match="24"):
        load_start(model("model.width=24"), str(tmp_path))
    with pytest.raises(ValueError, match="holds one modality: a mixture starts from the run directory of a mixture"):
        load_start(model(MIXTURE), str(tmp_path))


def test_positions_of_another_size_are_made_from_those_there(run_of, tmp_path):
    source, target = model("vision.image_size=28"), model("vision.image_size=42", "train.seed=2")
    torch.nn.init.normal_(source.student.positions.table)
    line = load_start(target, str(run_of(source))).line
    assert "made from other sizes: positions.table (52 -> 124 rows)" in line
    table, theirs = target.student.positions.table, source.student.positions.table
    torch.testing.assert_close(table, resized_offsets(theirs, 124))
    torch.testing.assert_close(table[[0, 120, 60]], theirs[[0, 48, 24]])  # the outermost offsets, and none


def test_the_teacher_of_a_run_is_taken_with_init_teacher(tmp_path, monkeypatch, run_of):
    source, target = model("train.seed=1"), model("init_teacher=true", "train.seed=2")
    folder = run_of(source)
    teacher = {name: values + 1 for name, values in source.student.state_dict().items()}
    monkeypatch.setattr(
        start_weights,
        "load_weights",
        lambda _, kind: (teacher if kind == "teacher" else source.student.state_dict(), 7),
    )
    start = load_start(target, str(folder))
    assert "the student and the teacher of" in start.line and start.line.endswith("at step 7")
    assert all(torch.equal(start.teacher[name], teacher[name]) for name in teacher)
    check_started(target, source.student.state_dict())
    assert load_start(model("train.seed=2"), str(folder)).teacher is None


def test_a_run_of_the_other_objective_gives_all_but_head_and_mask_vector(run_of):
    same = ["vision.positions=relative", "model.layer_scale=1e-4"]
    source, target = model("train.seed=1"), model("objective=v2", "decoder.groups=4", "train.seed=2", *same)
    line = load_start(target, str(run_of(source))).line
    assert "left there: tokens.mask, head.weight, head.bias" in line and "not in it: head.layers.0.conv.bias" in line
    check_started(target, source.student.state_dict() | target.student.state_dict())
    theirs, own_state = source.student.state_dict(), target.student.state_dict()
    assert all(torch.equal(own_state[name], theirs[name]) for name in own_state if name in theirs)

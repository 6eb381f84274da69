"""`init=DIR`: a Hugging Face folder, and what is refused."""

import pytest
import torch

from configs.compose import compose_pretrain
from models.data2vec import Data2Vec
from models.huggingface import save_pretrained
from pretrain.start_weights import load_student

SMALL = ["model.layers=2", "model.width=16", "model.heads=2", "model.ffn=32", "teacher.layers=2"]


def model(*overrides: str) -> Data2Vec:
    return Data2Vec(compose_pretrain([*SMALL, *overrides]))


def test_student_and_teacher_start_from_a_hugging_face_folder(tmp_path):
    source, target = model("train.seed=1"), model("train.seed=2")
    save_pretrained(tmp_path, source.student.state_dict(), source.config)
    line = load_student(target, str(tmp_path))
    assert f"Hugging Face folder {tmp_path}; not in it: head.bias, head.weight" in line
    theirs = source.student.state_dict()
    for name, values in target.student.state_dict().items():
        assert torch.equal(values, theirs[name]) == (not name.startswith("head.weight"))
        assert torch.equal(values, target.teacher.state_dict()[name])


def test_another_size_and_another_kind_of_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=f"init={tmp_path} is no run directory"):
        load_student(model(), str(tmp_path))
    source = model()
    save_pretrained(tmp_path, source.student.state_dict(), source.config)
    with pytest.raises(ValueError, match="24"):
        load_student(model("model.width=24"), str(tmp_path))

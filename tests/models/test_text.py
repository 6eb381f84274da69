import pytest
import torch

from models.data2vec import Data2Vec
from tests.models.common import random_batch, tiny_config


@pytest.fixture
def model() -> Data2Vec:
    return Data2Vec(tiny_config(modality="text"))


def test_positions_start_at_row_two(model):
    """RoBERTa's numbering; rows 0 and 1 are never used."""
    student, batch = model.student, random_batch(model.config)
    assert student.positions.weight.shape == (24 + 2, 32)
    x = torch.zeros(2, 5, 32)
    assert torch.equal(student.positions(x)[1], student.positions.weight[2:7])
    model.eval()(batch, batch.masks.sum()).loss.backward()
    gradient = student.positions.weight.grad.abs().sum(1)
    longest = int(batch.lengths.max())
    assert float(gradient[:2].sum()) == 0 and float(gradient[2 : 2 + longest].min()) > 0
    assert float(gradient[2 + longest :].sum()) == 0


def test_initial_weights_are_berts(model):
    student = model.student.requires_grad_(False)
    for table in (student.embedding.weight, student.positions.weight):
        assert float(table[1].abs().max()) == 0
        assert float(table[2:].std()) == pytest.approx(0.02, rel=0.1)
    for weight in (student.head.fc1.weight, student.encoder.blocks[0].feed_forward.fc1.weight):
        assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
    assert student.head.fc1.weight.shape == (64, 32) and float(student.head.fc2.bias.abs().max()) == 0


def test_the_teacher_sees_the_whole_text_and_the_student_what_is_left(model):
    """The published code shows the teacher <pad> where nothing is masked; the paper's is the whole text."""
    batch = random_batch(model.config)
    seen, whole = model.embed(batch)
    masked, embedding = batch.masks[:, 0], model.student.embedding.weight
    assert torch.equal(whole, embedding[batch.inputs.long()]) and not whole.requires_grad
    assert torch.equal(seen[masked], embedding[-1].expand(int(masked.sum()), -1))
    assert torch.equal(seen[~masked], whole[~masked])


def test_padding_gives_no_gradient(model):
    batch = random_batch(model.config)
    model.eval()(batch, batch.masks.sum()).loss.backward()
    assert float(model.student.embedding.weight.grad[1].abs().max()) == 0

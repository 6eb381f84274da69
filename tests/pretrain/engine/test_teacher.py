"""The teacher as a state of the optimizer, without DeepSpeed."""

import torch

from pretrain.engine.teacher import STATE, teacher_optimizer, update


def optimizer_of(parameters, teacher=True, **options):
    group = {"params": parameters, "teacher": teacher, "teacher_decay": 0.9}
    optimizer = teacher_optimizer(torch.optim.AdamW)([group], lr=0.1, weight_decay=0.1, **options)
    optimizer.armed = True
    return optimizer


def parameter(gradient=1.0):
    p = torch.nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    p.grad = torch.full_like(p, gradient)
    return p


def test_weights_move_as_under_plain_adamw_and_the_teacher_follows():
    p, plain = parameter(), parameter()
    ours, theirs = optimizer_of([p], fused=True), torch.optim.AdamW([plain], lr=0.1, weight_decay=0.1, fused=True)
    average = p.detach().clone()
    for _ in range(5):
        ours.step()
        theirs.step()
        average = 0.9 * average + (1 - 0.9) * plain.detach()
    assert torch.equal(p, plain)
    assert torch.allclose(ours.state[p][STATE], average, rtol=0, atol=1e-6)


def test_the_teacher_starts_from_the_weights_before_the_first_update():
    p = parameter()
    before, optimizer = p.detach().clone(), optimizer_of([p])
    optimizer.step()
    expected = before.clone()
    update(expected, p.detach(), 0.9)
    assert torch.equal(optimizer.state[p][STATE], expected)


def test_decay_one_freezes_and_decay_zero_copies():
    teacher, master = torch.ones(3), torch.tensor([2.0, float("inf"), 3.0])
    update(teacher, master, 1.0)
    assert torch.equal(teacher, torch.ones(3))
    update(teacher, torch.full((3,), 5.0), 0.0)
    assert torch.equal(teacher, torch.full((3,), 5.0))


def test_nothing_moves_before_the_engine_is_built():
    p = parameter(gradient=0.0)
    before, optimizer = p.detach().clone(), optimizer_of([p])
    optimizer.armed = False
    optimizer.step()
    assert torch.equal(p, before) and not optimizer.state


def test_untracked_groups_have_no_teacher():
    p = parameter()
    optimizer = optimizer_of([p], teacher=False)
    optimizer.step()
    assert STATE not in optimizer.state[p]


def test_a_step_moves_its_own_modality_and_what_is_shared():
    groups = {name: parameter() for name in ("shared", "speech", "text")}
    optimizer = teacher_optimizer(torch.optim.AdamW)([
        {"params": [p], "teacher": True, "teacher_decay": 0.9, "modality": None if name == "shared" else name}
        for name, p in groups.items()
    ], lr=0.1)  # fmt: skip
    optimizer.armed = True
    before = {name: p.detach().clone() for name, p in groups.items()}
    optimizer.active = "speech"
    optimizer.step()
    optimizer.step()
    assert len(optimizer.param_groups) == 3
    for name, steps in {"shared": 2, "speech": 2, "text": 0}.items():
        state = optimizer.state[groups[name]]
        assert int(state.get("step", 0)) == steps and (STATE in state) == (steps > 0)
        assert torch.equal(groups[name], before[name]) == (steps == 0)
    optimizer.active = "text"
    optimizer.step()
    assert [int(optimizer.state[p]["step"]) for p in groups.values()] == [3, 2, 1]


def test_a_dropped_block_moves_on_by_its_moments_as_under_zero():
    p, q = parameter(), parameter()
    dropped, zeroed = optimizer_of([p]), optimizer_of([q])
    dropped.clip = zeroed.clip = 0.0
    for optimizer in (dropped, zeroed):
        optimizer.step()
    p.grad, q.grad = None, torch.zeros_like(q)
    for optimizer in (dropped, zeroed):
        optimizer.step()
    assert torch.equal(p, q) and torch.equal(dropped.state[p][STATE], zeroed.state[q][STATE])
    assert dropped.state[p]["step"] == 2


def test_without_a_wrapper_the_step_clips_and_refuses_non_finite_gradients():
    p = parameter()
    optimizer = optimizer_of([p])
    optimizer.clip = 1.0
    optimizer.step()
    assert optimizer._global_grad_norm == torch.tensor(1000.0).sqrt()
    assert torch.allclose(p.grad.norm(), torch.tensor(1.0), atol=1e-4)
    before, teacher = p.detach().clone(), optimizer.state[p][STATE].clone()
    p.grad[7] = float("nan")
    optimizer.step()
    assert optimizer.overflow
    assert torch.equal(p, before) and torch.equal(optimizer.state[p][STATE], teacher)
    assert optimizer.state[p]["step"] == 1


def test_the_state_is_saved_and_loaded_with_the_optimizer():
    p, q = parameter(), parameter()
    saved, loaded = optimizer_of([p]), optimizer_of([q])
    saved.step()
    loaded.load_state_dict(saved.state_dict())
    assert torch.equal(loaded.state[q][STATE], saved.state[p][STATE])

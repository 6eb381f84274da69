import torch

from models.layers.noise import normal_noise


def noise(keys, rows, width=64, std=1.0):
    return normal_noise(torch.tensor(keys), torch.tensor(rows), width, std, torch.float32)


def test_numbers_depend_on_key_and_position_alone():
    """Not on the neighbours in the batch, nor on the order of the positions."""
    both = noise([5, 2**62 + 7], [[0, 1, 9], [3, 9, 4]])
    assert torch.equal(noise([2**62 + 7], [[4, 3]])[0], both[1, [2, 0]])
    assert not torch.equal(both[0, 2], both[1, 1]) and not torch.equal(both[0, 0], both[0, 1])


def test_both_halves_of_a_key_count():
    rows = [[0, 1]]
    numbers = [noise([key], rows) for key in (1, 2, 1 + 2**32, 1 - 2**63)]
    assert all(not torch.equal(a, b) for i, a in enumerate(numbers) for b in numbers[:i])


def test_numbers_are_normal():
    x = noise(list(range(300)), [list(range(20))] * 300, 63, std=0.01).flatten() / 0.01
    assert abs(x.mean()) < 0.005 and abs(x.std() - 1) < 0.005
    assert abs((x**3).mean()) < 0.02 and abs((x**4).mean() - 3) < 0.05
    for deviations, share in ((1, 0.3173), (2, 0.0455), (3, 0.0027)):
        assert abs((x.abs() > deviations).float().mean() - share) < 0.004


def test_neighbours_are_uncorrelated():
    """Channels, positions, keys that differ by 1, and keys of which one is the other's negative."""
    x = noise([*range(200), *range(-200, 0)], [list(range(12))] * 400)
    for a, b in ((x[..., 1:], x[..., :-1]), (x[:, 1:], x[:, :-1]), (x[1:], x[:-1]), (x[..., :32], x[..., 32:]),
                 (x[:200], x[200:].flip(0))):  # fmt: skip
        assert abs((a * b).mean()) < 0.012

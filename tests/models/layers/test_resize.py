import pytest
import torch

from models.layers.resize import repeated_rows, resized_offsets
from models.vision import relative_position_index


def test_a_smooth_bias_over_offsets_keeps_its_shape_on_another_grid():
    """A bias that falls with the distance, in shares of the grid, is met on the finer grid; CLS keeps its rows."""

    def table(grid: int) -> torch.Tensor:
        line = torch.linspace(-1, 1, 2 * grid - 1)
        bias = -(line[:, None] ** 2 + line[None] ** 2)
        return torch.cat([torch.stack([bias.flatten(), 2 * bias.flatten()], 1), torch.tensor([[7.0, 8.0]] * 3)])

    found = resized_offsets(table(7), len(table(14)))
    assert (found - table(14)).abs().max() < 0.15 and torch.equal(found[-3:], table(14)[-3:])
    assert torch.allclose(resized_offsets(table(7), len(table(7))), table(7), atol=1e-6)
    assert len(found) == int(relative_position_index(14).max()) + 1


def test_tables_of_no_square_grid_are_refused():
    for rows, wanted in ((50, 28), (28, 50)):
        with pytest.raises(ValueError, match="none of a square grid"):
            resized_offsets(torch.zeros(rows, 2), wanted)


def test_positions_are_cut_or_begin_again():
    table = torch.arange(6.0)[:, None]  # positions in rows 2 to 5
    assert repeated_rows(table, 4, 2).flatten().tolist() == [0, 1, 2, 3]
    assert repeated_rows(table, 11, 2).flatten().tolist() == [0, 1, 2, 3, 4, 5, 2, 3, 4, 5, 2]

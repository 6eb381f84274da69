"""A checkpoint of any number of ranks and ZeRO stage goes on at any other: every state bit for bit, losses to 1e-5."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import NamedTuple

import pytest

from configs.schema_commands import ReshardConfig
from pretrain.checkpoints.resharding import WHOLE
from pretrain.reshard import reshard
from tests.integration.made_up import tiny
from tests.integration.processes import train_engines

pytestmark = pytest.mark.slow

STEPS = 3


class Layout(NamedTuple):
    ranks: int
    stage: int
    precision: str = "fp32"
    offload: bool = False


MATRIX = [Layout(ranks, stage) for ranks, stage in product((1, 2, 4), (1, 2, 3))]
OTHERS = [Layout(2, 0), Layout(1, 0, "bf16"), Layout(2, 1, "bf16"), Layout(4, 3, "bf16"), Layout(2, 2, "fp32", True)]
FEW = [Layout(1, 3), Layout(2, 1), Layout(4, 2)]

Case = tuple[str, Layout, Layout]
"""What is trained, the layout that saved, and the one that goes on."""
EVERY: list[Case] = [
    *(("vision", one, other) for one, other in product(MATRIX, MATRIX)),
    *(("vision", one, other) for one, other in product(OTHERS, FEW)),
    *(("vision", one, other) for one, other in product(FEW, OTHERS)),
    *(("mixture", one, other) for one, other in product(FEW, FEW)),
]
RING = [
    Layout(1, 1), Layout(4, 3), Layout(2, 2, "fp32", True), Layout(1, 3), Layout(2, 0), Layout(4, 2), Layout(2, 1),
    Layout(1, 0, "bf16"), Layout(4, 3, "bf16"), Layout(1, 2),
]  # fmt: skip
DIAGONAL: list[Case] = [
    *(("vision", one, other) for one, other in zip(RING, RING[1:] + RING[:1], strict=True)),
    ("vision", Layout(4, 2), Layout(1, 3)),  # over the state of another
    *(("mixture", one, other) for one, other in zip(FEW, FEW[1:] + FEW[:1], strict=True)),
]
"""Every number of ranks, stage and precision, and offloading, saves once and goes on once."""


def overrides(kind: str, layout: Layout) -> list[str]:
    placed = [f"deepspeed=zero{layout.stage}", f"precision={layout.precision}"]
    return [*tiny(kind, 8, 2), *placed, f"deepspeed.offload_optimizer={layout.offload}", "model.layer_drop=0.3"]


def folder(tmp: Path, kind: str, layout: Layout) -> Path:
    return tmp / "_".join(map(str, (kind, *layout)))


def run(tmp: Path, jobs: list[tuple[Layout, dict]]) -> list[dict]:
    """The jobs' results in order, in one launch per number of ranks."""
    results: dict[int, dict] = {}
    for ranks in sorted({layout.ranks for layout, _ in jobs}):
        own = [(number, job) for number, (layout, job) in enumerate(jobs) if layout.ranks == ranks]
        done = train_engines(tmp, ranks, [job for _, job in own])
        results |= {number: result for (number, _), result in zip(own, done, strict=True)}
    return [results[number] for number in range(len(jobs))]


Left = tuple[Path, dict[tuple[str, Layout], list[float]]]


def leave(tmp: Path, cases: list[Case]) -> Left:
    """Checkpoints of every layout that saves, and the losses of the runs that went on undisturbed."""
    sources = sorted({(kind, one) for kind, one, _ in cases})
    jobs = []
    for kind, layout in sources:
        save = folder(tmp, kind, layout)
        jobs.append((layout, {"overrides": overrides(kind, layout), "steps": STEPS, "save": str(save)}))
    return tmp, {source: done["losses"] for source, done in zip(sources, run(tmp, jobs), strict=True)}


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Left:
    return leave(tmp_path_factory.mktemp("left"), DIAGONAL)


def test_layouts_go_on_from_each_other(left, tmp_path):
    assert go_on(left, DIAGONAL, tmp_path) >= 7


@pytest.mark.soak
def test_every_layout_goes_on_from_every_other(tmp_path_factory, tmp_path):
    left = leave(tmp_path_factory.mktemp("left_by_all"), EVERY)
    assert go_on(left, EVERY, tmp_path) >= 2 * len(MATRIX)


def go_on(left: Left, cases: list[Case], tmp_path: Path) -> int:
    """One engine per target takes up all its sources, in a turn of its own: some fresh, some over another's state.

    Returns the number of runs in fp32 whose losses were compared.
    """
    tmp, losses = left
    targets = {(kind, other): [one for k, one, o in cases if (k, o) == (kind, other)] for kind, _, other in cases}
    jobs = []
    for turn, ((kind, other), sources) in enumerate(targets.items()):
        first = turn % len(sources)
        sources[:] = sources[first:] + sources[:first]
        places = [str(folder(tmp, kind, one)) for one in sources]
        jobs.append((other, {"overrides": overrides(kind, other), "steps": STEPS, "load": places}))
    compared = 0
    for ((kind, other), sources), result in zip(targets.items(), run(tmp_path, jobs), strict=True):
        for one, loaded in zip(sources, result["loaded"], strict=True):
            where = f"{kind} {one} -> {other}"
            assert loaded["differ"] == [], where
            assert loaded["counts"][:2] == [STEPS, 0], where
            if loaded["losses"] and one.precision == other.precision == "fp32":
                compared += 1
                assert loaded["losses"] == pytest.approx(losses[kind, one], abs=1e-5), where
    return compared


def test_a_resharded_checkpoint_holds_the_same(left, tmp_path):
    """Whole parameters in one and in three files, made of the partitions of four ranks."""
    tmp, losses = left
    source = Layout(4, 2)
    place = folder(tmp, "mixture", source)
    for files, target in ((1, Layout(2, 1)), (3, Layout(2, 3))):
        done = reshard(ReshardConfig(run=str(place), files=files))
        assert len(list(done.glob("rank_*.safetensors"))) == files
        assert WHOLE in (done / "state.json").read_text()
        job = {"overrides": overrides("mixture", target), "steps": STEPS, "load": [str(place)]}
        (loaded,) = run(tmp_path, [(target, job)])[0]["loaded"]
        assert loaded["differ"] == [], files
        assert loaded["losses"] == pytest.approx(losses["mixture", source], abs=1e-5)

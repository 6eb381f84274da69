"""Who runs where: on one node, on several, under Slurm and with a hostfile."""

import base64
import json
from pathlib import Path

import pytest

from configs.compose import compose_pretrain
from configs.schema import PretrainConfig
from pretrain.launching.command_line import command_line
from pretrain.launching.plan import Machine, plan

ROOT = Path(__file__).parents[2]


CPU = Machine(gpus=[], cores=8)


GPUS = Machine(gpus=["3", "5", "6", "7"], cores=8)


REAL = "recipe=vision_base_imagenet"


def config(*overrides: str) -> PretrainConfig:
    return compose_pretrain(list(overrides))


def world_info(command: list[str]) -> dict[str, list]:
    (encoded,) = (part.partition("=")[2] for part in command if part.startswith("--world_info="))
    return json.loads(base64.urlsafe_b64decode(encoded))


@pytest.mark.parametrize(
    ("overrides", "machine", "ranks"),
    [
        ([], CPU, 2),
        ([], GPUS, 2),
        ([], Machine(["0"], 8), 1),
        ([REAL], CPU, 1),
        ([REAL], GPUS, 4),
        ([REAL, "launch.ranks=3"], GPUS, 3),
    ],
)
def test_ranks_follow_the_devices(overrides: list[str], machine: Machine, ranks: int) -> None:
    assert plan(config(*overrides), machine, {}).world == ranks


def test_more_ranks_than_gpus_is_refused() -> None:
    with pytest.raises(ValueError, match="launch.ranks=5, but this node has 4 GPUs: at most launch.ranks=4"):
        plan(config("launch.ranks=5"), GPUS, {})


def test_the_visible_gpus_are_the_ones_used() -> None:
    start = plan(config(REAL, "launch.ranks=2"), GPUS, {})
    assert world_info(command_line(start, GPUS, [])) == {"localhost": ["3", "5"]}


def test_two_nodes_by_hand() -> None:
    keys = ["cluster=manual", "cluster.nodes=2", "cluster.node_rank=1", "cluster.master=first", "launch.port=1234"]
    command = command_line(plan(config(REAL, *keys), GPUS, {}), GPUS, [])
    assert {"--node_rank=1", "--master_addr=first", "--master_port=1234"} <= set(command)
    assert world_info(command) == {"node0": [0, 1, 2, 3], "node1": ["3", "5", "6", "7"]}
    with pytest.raises(ValueError, match="cluster.node_rank=2 must be below cluster.nodes=2"):
        plan(config(REAL, *keys, "cluster.node_rank=2"), GPUS, {})
    with pytest.raises(ValueError, match="cluster.master=ADDRESS"):
        plan(config(REAL, *keys, "cluster.master="), GPUS, {})
    assert plan(config(REAL, *keys, "cluster.master=localhost"), GPUS, {}).master == "localhost"


def test_slurm_tasks_agree_without_talking() -> None:
    step = {"SLURM_STEP_NUM_NODES": "3", "SLURM_STEP_NUM_TASKS": "3", "SLURM_JOB_ID": "4012345"}
    keys = [REAL, "cluster=slurm", "cluster.master=head"]
    plans = [plan(config(*keys), GPUS, {**step, "SLURM_NODEID": str(node)}) for node in range(3)]
    assert [start.node for start in plans] == [0, 1, 2]
    assert {(start.world, start.master, start.port) for start in plans} == {(12, "head", 22345)}
    with pytest.raises(ValueError, match="12 tasks on 3 nodes.*--ntasks-per-node=1"):
        plan(config(*keys), GPUS, {**step, "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "12"})
    with pytest.raises(ValueError, match="not a step of a Slurm job"):
        plan(config(*keys), GPUS, {})


@pytest.mark.parametrize(
    "content", ["first\n", "first slots=x\n", "first slots=0\n", "first slots=1\nfirst slots=1\n", "# nobody\n"]
)
def test_a_bad_hostfile_is_named(tmp_path: Path, content: str) -> None:
    file = tmp_path / "hosts"
    file.write_text(content)
    with pytest.raises(ValueError, match="cluster.hostfile=.*HOST slots=GPUS"):
        plan(config(REAL, "cluster=hostfile", f"cluster.hostfile={file}"), CPU, {})

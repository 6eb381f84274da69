"""How a rank ends: its exit code, and one line for what is no bug."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from data_shards.loading.modality_loader import LoaderFailed
from data_shards.shards.storage import Unreachable
from pretrain import train
from pretrain.checkpoints.manifest import Unreadable
from pretrain.engine.distributed import PeerLost
from pretrain.health.guard import RunStopped
from pretrain.launching import exits


@pytest.fixture
def end(monkeypatch, tmp_path):
    """A function that runs `main`, where training raises or returns what it is given; the exit code and the notes."""
    monkeypatch.setenv(exits.NOTES, str(tmp_path / "notes"))
    monkeypatch.setattr(train, "ALONE_S", 0.0)
    monkeypatch.setattr(train, "_keep_log_readable", lambda: None)
    monkeypatch.setattr(train.exits, "signal_on_end_of", lambda *_: None)

    def leave(code: int) -> None:
        raise SystemExit(code)

    def run(outcome: BaseException | bool) -> int:
        def trained(overrides: list[str]) -> bool:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(train, "_train", trained)
        with pytest.raises(SystemExit) as ended:
            train.main([])
        return ended.value.code

    monkeypatch.setattr(train.exits, "leave", leave)
    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("model.width=7: no"), exits.MISTAKE),
        (RunStopped("20 bad steps"), exits.HALTED),
        (LoaderFailed("a loader process failed"), exits.STALLED),
        (PeerLost("another rank has ended"), exits.STALLED),
        (Unreadable("state.json cannot be read"), exits.STALLED),
        (Unreachable("data.shards cannot be read: the store does not answer"), exits.STALLED),
        (OSError(28, "No space left on device"), exits.FAILED),
    ],
)
def test_what_is_no_bug_is_one_line(end, error, code, capsys, tmp_path) -> None:
    assert end(error) == code
    assert capsys.readouterr().err == f"error: {error}\n"
    assert list(exits.read_notes(tmp_path / "notes").values()) == [code], "the launcher may end it while it waits"


def test_an_error_of_a_collective_is_a_lost_peer(end, capsys) -> None:
    assert end(RuntimeError("gloo/transport: Connection reset")) == exits.STALLED
    said = capsys.readouterr().err
    assert said.startswith("error: another rank or its node has ended") and said.count("\n") == 1


@pytest.mark.parametrize("shape", [(2**50,), (2**31, 2**31), (2**62, 2**62)])
def test_a_tensor_larger_than_memory_is_a_line_with_remedies(end, capsys, shape) -> None:
    with pytest.raises(RuntimeError) as too_large:
        torch.empty(*shape)
    assert end(too_large.value) == exits.MISTAKE
    said = capsys.readouterr().err
    assert said.startswith("error: memory does not suffice: lower batch.micro") and said.count("\n") == 1


def test_a_bug_shows_its_traceback(end, capsys) -> None:
    assert end(KeyError("a bug")) == exits.FAILED
    assert "Traceback" in capsys.readouterr().err


def test_another_rank_says_which_it_is(end, monkeypatch, capsys) -> None:
    monkeypatch.setattr(train.distributed, "rank", lambda: 3)
    assert end(ValueError("its shard is damaged")) == exits.MISTAKE
    assert capsys.readouterr().err == "error (rank 3): its shard is damaged\n"


@pytest.mark.parametrize(
    ("outcome", "code"), [(True, exits.DONE), (False, exits.STOPPED), (KeyboardInterrupt(), exits.STOPPED)]
)
def test_the_end_and_a_notice_have_their_codes(end, outcome, code) -> None:
    assert end(outcome) == code


@pytest.mark.parametrize(("living", "told"), [(1, False), (2, True)])
def test_a_lost_peer_is_told_unless_its_end_on_this_node_has_been(end, monkeypatch, capsys, living, told) -> None:
    monkeypatch.setenv("LOCAL_SIZE", "2")
    monkeypatch.setattr(train.psutil.Process, "children", lambda _: [train.psutil.Process()] * living)
    assert end(PeerLost("another rank has ended")) == exits.STALLED
    assert ("another rank has ended" in capsys.readouterr().err) == told


def test_an_interrupt_during_the_imports_leaves_no_traceback():
    root = Path(__file__).parents[2]
    command = [sys.executable, "-X", "importtime", "-m", "pretrain.train"]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr and any("numpy" in line for line in process.stderr), "torch's import has begun"
        process.send_signal(signal.SIGINT)
        said = process.stderr.read()
    assert process.returncode == -signal.SIGINT and "Traceback" not in said

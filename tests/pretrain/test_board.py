"""`./run.sh board`: TensorBoard over a run."""

import json
import socket
import subprocess
import sys
from time import monotonic, sleep
from urllib.error import URLError
from urllib.request import urlopen

from tests.pretrain.reporting.test_tensorboard import write


def test_the_command_names_a_folder_without_files(tmp_path):
    command = [sys.executable, "-m", "pretrain.board", f"run={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.strip() == (
        f"error: run={tmp_path} holds no TensorBoard files: give the folder of a run, or of several"
    )


def test_the_command_serves_the_run(tmp_path):
    write(tmp_path / "demo" / "tensorboard", 0, range(1, 3), loss=1.0)
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "pretrain.board", f"run={tmp_path}/demo", f"port={port}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            assert fetch(f"http://localhost:{port}/data/runs", seconds=60) == ["tensorboard"]
        finally:
            server.terminate()


def fetch(url: str, seconds: float) -> list[str]:
    """The runs that TensorBoard lists once it is up and has read some."""
    deadline = monotonic() + seconds
    while True:
        try:
            if runs := json.load(urlopen(url)):
                return runs
        except URLError:
            pass
        assert monotonic() < deadline, f"no runs at {url} after {seconds} s"
        sleep(0.2)

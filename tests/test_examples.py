"""The pages of examples, command by command as they stand there: from files to a model that Transformers loads.

Two things differ. The packages that a page downloads are stood in for by made-up files in the same folders, and the run
takes four steps in place of 500.
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_shards.shard_tools import build_folder, clip, encoded, make_images

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/examples"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
COPY = '#!/bin/sh\ncp -r "$STAND_IN" "$3"\n'
DOWNLOAD = '#!/bin/sh\nshift; for name in "$@"; do touch "${name}_1_all.deb"; done\n'


def icons(folder: Path) -> None:
    for number, name in enumerate(("actions", "apps", "places")):
        own = folder / "usr/share/icons/oxygen/base/48x48" / name
        own.mkdir(parents=True)
        for i in range(30 + 10 * number):
            (own / f"{i:02d}.png").write_bytes(encoded(100 * number + i, "png"))


def prompts(folder: Path) -> None:
    for number, name in enumerate(("en_US", "fr_CA", "it_IT")):
        own = folder / "usr/share/asterisk/sounds" / name / "digits"
        own.mkdir(parents=True)
        for i in range(30):
            (own / f"{i:02d}.wav").write_bytes(clip(100 * number + i, 12000))


def manuals(folder: Path) -> None:
    for section in ("man2", "man3", "man7"):
        own = folder / "usr/share/man" / section
        own.mkdir(parents=True)
        for i in range(30):
            said = " ".join(f"{section} word{(i * k) % 91} of \\fIpage\\fP" for k in range(40))
            (own / f"p{i}.{section[-1]}.gz").write_bytes(gzip.compress(f".TH P {i}\n{said}\n".encode()))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("images", icons),
        pytest.param("speech", prompts, marks=pytest.mark.soak),
        pytest.param("text", manuals, marks=pytest.mark.soak),
    ],
)
def test_every_command_of_the_page_runs(tmp_path: Path, name: str, make) -> None:
    make(tmp_path / "stand-in")
    for tool, script in (("dpkg-deb", COPY), ("apt-get", DOWNLOAD)):
        (tmp_path / tool).write_text(script)
        (tmp_path / tool).chmod(0o755)
    page = (PAGES / f"{name}.md").read_text()
    (place,) = set(re.findall(r"/tmp/data2vec-\w+", page))
    page = page.replace(place, str(tmp_path / "place")).replace("train.steps=500", "train.steps=4")
    found = BLOCK.findall(page)
    assert len(found) >= 5 and [language for language, _ in found].count("python") >= 1
    environment = {**os.environ, "STAND_IN": str(tmp_path / "stand-in"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    said = ""
    for language, text in found:
        command = ["bash", "-euo", "pipefail", "-c", text] if language == "bash" else [sys.executable, "-c", text]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        said += done.stdout + done.stderr
    assert "untrained network" in said and "teacher at step 4" in said, "both probes"
    assert re.search(r"torch\.Size\(\[1, \d+, 128\]\)", said), "what the model that Transformers loaded gives"


SRUN = """#!/bin/bash
shift 2
for node in 0 1; do
  SLURM_NODEID=$node SLURM_STEP_NUM_NODES=2 SLURM_STEP_NUM_TASKS=2 SLURM_JOB_ID=7 "$@" cluster.master=127.0.0.1 &
  pids+=($!)
done
code=0
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
echo "step ended with $code" >> "$LOG"
[[ -e $LOG.first ]] || { touch "$LOG.first"; exit 76; }
exit $code
"""


@pytest.mark.slow
@pytest.mark.soak
def test_the_slurm_script_starts_every_node_and_goes_on_after_76(tmp_path: Path):
    """A stand-in for srun starts the two tasks here; it tells of a lost node once, although none was lost."""
    build_folder(make_images(tmp_path / "images", 20), tmp_path / "shards")
    for tool, script in (("srun", SRUN), ("sleep", "#!/bin/sh\n")):
        (tmp_path / tool).write_text(script)
        (tmp_path / tool).chmod(0o755)
    keys = ["recipe=vision", "launch.ranks=1", "batch.global=8", "train.steps=3", "checkpoint.every=1"]
    keys += [f"data.shards={tmp_path}/shards", f"run.dir={tmp_path}/run"]
    environment = {**os.environ, "LOG": str(tmp_path / "log"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", str(PAGES / "pretrain.sbatch"), *keys]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "log").read_text() == "step ended with 0\n" * 2
    assert "attempt 1 ended with code 76: starting again" in done.stderr
    assert "2 ranks, 1 of them here" in done.stdout and (tmp_path / "run/checkpoints/step_00000003").is_dir()


def test_the_image_has_what_the_commands_need():
    """The Dockerfile copies every package, and nothing that is not there; it installs by the one door."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    copied = [word for line in lines if line.startswith("COPY") for word in line.split()[1:-1]]
    assert all((ROOT / name).exists() for name in copied)
    assert {"run.sh", "pyproject.toml", "configs", "data_shards", "models", "pretrain"} == set(copied)
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert kept == set(copied) and "RUN ./run.sh setup" in lines and 'ENTRYPOINT ["./run.sh"]' in lines

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

from tests.data_shards.shard_tools import clip, encoded

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

"""`./run.sh shards`: its commands, and mistakes in one line."""

import os
import shutil
import subprocess
import sys

import pytest

from data_shards.__main__ import main
from tests.data_shards.shard_tools import command, make_images, make_shards
from tests.integration.processes import ROOT
from tests.namespaces import unprivileged


def test_the_command_line(tmp_path):
    images = make_images(tmp_path / "images")
    done = command("build", "source=imagefolder", f"input={images}", f"output={tmp_path / 'out'}")
    assert done.returncode == 0, done.stderr
    assert "16 samples in 1 shards, 2 classes" in done.stdout
    missing = command("build", "source=imagefolder", "input=/nowhere", f"output={tmp_path / 'b'}")
    assert missing.returncode == 2 and missing.stderr == (
        "error: input=/nowhere is no folder of images or of class folders: give a folder, an archive, a URL, or a TSV "
        "or CSV manifest\n"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["build", "source=imagefolder", "output=x", "inputt=y"],
            "error: unknown key 'inputt': did you mean 'input'?\n",
        ),
        (["validate"], "error: 'shards' is missing: give shards=VALUE\n"),
        (["biuld"], "error: unknown command 'biuld': did you mean 'build'?\nusage: "),
        ([], "usage: "),
    ],
)
def test_wrong_usage_is_code_2(arguments, told, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("build source=imagefolder input=images output=file", "file: File exists: give another path"),
        ("build source=imagefolder input=images output=file/x", "file/x: Not a directory: give another path"),
        (f"build source=imagefolder input=images output=out name={'n' * 300}", "File name too long: give another path"),
        ("build source=imagefolder input=images output=/proc/x", "/proc/x: No such file or directory: check the path"),
        ("show shards=shards out=file/x.html", "file: File exists: give another path"),
        ("info shards=odd", "odd/index.json: Is a directory: give another path"),
        ("validate shards=odd", "odd/index.json: Is a directory: give another path"),
        ("validate shards=trian", "no shards match 'trian'"),
        ("validate shards=shards/trian-{0..3}.tar", "no shards match 'shards/trian-{0..3}.tar'"),
        ("index shards=trian.tar", "no shards match 'trian.tar'"),
    ],
)
def test_a_path_that_cannot_be_used_is_a_line_with_a_remedy(arguments, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    make_images(tmp_path / "images")
    make_shards(tmp_path / "shards", (4, 3))
    (tmp_path / "file").touch()
    (tmp_path / "odd/index.json").mkdir(parents=True)
    shutil.copy("shards/train-000000.tar", "odd")
    with pytest.raises(SystemExit) as ended:
        main(arguments.split())
    said = capsys.readouterr().err
    assert ended.value.code == 2 and said.startswith("error: ") and told in said and said.count("\n") == 1


def test_index_names_what_is_no_tar_and_prints_nothing_else(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.tar")  # opened, it would be waited for
    (tmp_path / "text.tar").write_text("x")
    with pytest.raises(SystemExit) as ended:
        main(["index", f"shards={tmp_path}"])
    said = capsys.readouterr()
    assert ended.value.code == 1 and said.out == ""
    assert f"error: {tmp_path}/pipe.tar: no plain file\nerror: {tmp_path}/text.tar: truncated or no tar" in said.err


@pytest.mark.parametrize("hidden", ["train-000001.tar", "train-000001.idx.npy", "index.json"])
def test_a_file_that_may_not_be_read_is_a_line_with_a_remedy(hidden, tmp_path):
    make_shards(tmp_path, (4, 3))
    (tmp_path / hidden).chmod(0)
    show = [sys.executable, "-m", "data_shards", "show", f"shards={tmp_path}", f"out={tmp_path}/page.html"]
    done = subprocess.run(unprivileged(*show), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"error: {tmp_path}/{hidden}: Permission denied: change its permissions, or give another path"
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--help"], "usage: "),
        (["build", "--help"], "usage: ./run.sh shards build source=VALUE output=VALUE [key=value ...]\n"),
        (["index", "-h"], "usage: ./run.sh shards index shards=VALUE [key=value ...]\n"),
    ],
)
def test_help_is_code_0(arguments, told, capsys):
    try:
        main(arguments)
    except SystemExit as ended:
        assert ended.code == 0
    assert capsys.readouterr().out.startswith(told)

"""`./run.sh shards`: its commands, and mistakes in one line."""

import pytest

from data_shards.__main__ import main
from tests.data_shards.shard_tools import command, make_images


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

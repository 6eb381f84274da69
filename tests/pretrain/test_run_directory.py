"""The lock of a run directory and what its config.yaml tells of a change."""

import pytest

from configs.schema import OptimizerConfig, PretrainConfig
from pretrain.run_directory import lock, write_config


def test_a_directory_is_held_by_one_run_at_a_time(tmp_path):
    held = lock(tmp_path / "run")
    with pytest.raises(ValueError, match=r"run.dir=.* is in use by process \d+ on .*: wait for it"):
        lock(tmp_path / "run")
    held.close()
    lock(tmp_path / "run").close()


def test_the_config_names_versions_and_what_has_changed(tmp_path):
    changes, text = write_config(tmp_path, PretrainConfig(), world=2)
    assert changes == ""
    assert text == (tmp_path / "config.yaml").read_text()
    assert "# torch: " in text and "# ranks: 2" in text
    changes, _ = write_config(tmp_path, PretrainConfig(optimizer=OptimizerConfig(lr=0.25)), world=2)
    assert changes == "optimizer.lr: 0.0005 -> 0.25"

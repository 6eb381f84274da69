"""Files are replaced whole, and folders locked."""

import pytest

from data_shards.files import replace_text


def test_a_file_is_replaced_whole(tmp_path, monkeypatch):
    replace_text(tmp_path / "latest", "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space left"):
        replace_text(tmp_path / "latest", "new")
    assert (tmp_path / "latest").read_text() == "old"

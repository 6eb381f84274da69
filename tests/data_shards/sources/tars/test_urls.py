"""Inputs of source=webdataset: folders, files, globs, braces, URLs and commands."""

import pytest

from data_shards.sources.tars.urls import prefixes, tar_urls


def test_folders_globs_braces_and_lists(tmp_path):
    for name in ("b.tar", "a.tar.gz", "c/d.TGZ", "e.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    every = [f"{tmp_path}/{name}" for name in ("a.tar.gz", "b.tar", "c/d.TGZ")]
    assert tar_urls(str(tmp_path)) == every
    assert tar_urls(f"{tmp_path}/*.tar*") == every[:2]
    assert tar_urls(f"{tmp_path}/{{b.tar,a.tar.gz}}::{every[2]}::{every[2]}") == [every[1], every[0], every[2]]
    assert tar_urls("https://h/{0..1}.tar?k=v") == ["https://h/0.tar?k=v", "https://h/1.tar?k=v"]
    assert tar_urls("pipe:cat {a,b}.tar") == ["pipe:cat a.tar", "pipe:cat b.tar"]


@pytest.mark.parametrize("text, said", [("none.tar", "none.tar is not there"), ("*.tar", "names no tar"),
                                        ("{a,b}.tar", "a.tar is not there"), (".", "names no tar")])  # fmt: skip
def test_inputs_that_name_nothing(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"{said}.*; give a folder of tars, a file, a URL or pipe:COMMAND"):
        tar_urls(text)


def test_prefixes_are_names_without_dots_and_no_two_are_equal():
    urls = ["/d/a.b.tar.gz", "https://h/x/a_b.tar?k=1", "pipe:cat a.tar", "/e/__f__.tar", "/e/g"]
    assert prefixes(urls) == ["a_b", "a_b_000001", "000002", "_f__", "g"]

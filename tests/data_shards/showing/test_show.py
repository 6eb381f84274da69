"""`shards show`: what it writes and says, and mistakes."""

import shutil

import pytest
from PIL import Image

from configs.compose import parse
from configs.schema_commands import ShowConfig
from data_shards.making.indexer import index_shards
from data_shards.making.writer import save_folder_index, write_shard
from data_shards.shards.index_file import FolderIndex
from data_shards.showing.show import show
from tests.data_shards.http_store import serve
from tests.data_shards.shard_tools import command, damage, encoded, make_shards, member

SMALL = ["vision.image_size=28", "vision.patch_size=4", "vision.mask.patches=20"]


def shown(*arguments):
    return show(parse(ShowConfig, list(arguments)))


@pytest.mark.parametrize("modality", ["vision", "speech", "text"])
def test_a_page_of_each_modality(tmp_path, modality):
    make_shards(tmp_path / "s", (5, 3), modality=modality)
    out = tmp_path / "new" / "preview.html"
    (line,) = shown(f"shards={tmp_path / 's'}", f"out={out}", "n=4", *(SMALL * (modality == "vision")))
    assert line.startswith(f"{out}: 4 of 8 samples, ")
    page = out.read_text()
    assert page.count("<article>") == 4 and f"<li>{modality}, " in page
    assert [page.count(f"<{tag} ") for tag in ("img", "audio")] == {
        "vision": [12, 0], "speech": [8, 4], "text": [0, 0]
    }[modality]  # fmt: skip
    assert (' class="masked"' in page) is (modality == "text")


def test_a_picture(tmp_path):
    make_shards(tmp_path, (5,))
    shown(f"shards={tmp_path}", f"out={tmp_path}/a.PNG", *SMALL)
    with Image.open(tmp_path / "a.PNG") as image:
        assert image.format == "PNG" and image.width > 1500


def test_a_recipe_and_keys_change_what_is_masked(tmp_path):
    make_shards(tmp_path, (2,))

    def page(*keys):
        shown(f"shards={tmp_path}", f"out={tmp_path}/a.html", *keys)
        return (tmp_path / "a.html").read_text()

    assert " of 196 patches" in page()
    demo = page("recipe=demo")
    assert "35 of 49 patches" in demo and "recipe=demo" in demo
    assert demo.count("by each of 4 masks") == 2 == page("objective=v2", "masks.count=3").count("by each of 3 masks")
    first = page(
        "recipe=demo", "objective=v1", "vision.patch_size=7", "vision.mask.patches=8", "vision.mask.min_block=1"
    )
    assert "8 of 16 patches" in first


def test_damaged_samples_are_named_and_the_command_goes_on(tmp_path):
    make_shards(tmp_path / "s", (4,))
    damage(tmp_path / "s", (1,))
    done = command("show", f"shards={tmp_path / 's'}", f"out={tmp_path}/a.html", *SMALL)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("damaged: train-000000.tar, key '000001' (row 1): checksum of its ")
    assert second.startswith(f"{tmp_path}/a.html: 4 of 4 samples, 1 damaged, ")
    assert (tmp_path / "a.html").read_text().count('class="damaged"') == 1


def test_shards_that_others_built_and_remote_ones(tmp_path):
    write_shard(tmp_path / "x-0.tar", [("a", {"jpg": encoded(0), "json": b"{}"})])
    for leftover in tmp_path.glob("*.npy"):
        leftover.unlink()
    index_shards(str(tmp_path))
    shown(f"shards={tmp_path}", f"out={tmp_path}/a.html", *SMALL)
    assert ".json (2 B)" in (tmp_path / "a.html").read_text()
    make_shards(tmp_path / "t", (3,), modality="text")
    with serve(tmp_path / "t") as store:
        url = store.url.replace("://", "://me:hush@")
        shown(f"shards={url}/train-000000.tar", f"out={tmp_path}/b.html")
    content = (tmp_path / "b.html").read_text()
    assert content.count("<article>") == 3 and "http://***@" in content and "hush" not in content


def test_token_ids_without_a_tokenizer_are_numbers(tmp_path):
    samples = [("a", member(0, "text"))]
    save_folder_index(tmp_path, FolderIndex((write_shard(tmp_path / "a-0.tar", samples),)))
    shown(f"shards={tmp_path}", f"out={tmp_path}/a.html")
    assert '<span class="seen">0</span>' in (tmp_path / "a.html").read_text()  # <s>


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (["out=a.jpg"], "out=a.jpg: expected a name that ends in .html (a page) or .png (a picture)"),
        (["out=/tmp/.html"], "out=/tmp/.html: expected a name that ends in .html"),
        (["recipe=visoin"], "unknown recipe 'visoin': one of demo, "),
        (["recipe=demo_speech"], "recipe=demo_speech is for speech, and the samples are vision: leave it out, or "),
        (["modality=[speech,text]"], "modality=speech,text is for speech, text, and the samples are vision"),
        (["vision.patch_size=9"], "vision.patch_size=9 must divide vision.image_size=224: "),
        (["vision.patchsize=9"], "unknown key 'vision.patchsize': did you mean 'vision.patch_size'?"),
        (["n=0"], "n=0: expected greater than or equal to 1"),
        (["model=base"], "unknown key 'model': "),
    ],
)
def test_mistakes_are_told_with_a_remedy_and_nothing_is_written(tmp_path, monkeypatch, keys, told):
    make_shards(tmp_path / "s", (2,))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError) as error:
        shown(f"shards={tmp_path / 's'}", *([] if "out" in keys[0] else ["out=a.html"]), *keys)
    assert str(error.value).startswith(told) and "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_what_a_sample_is_must_be_known(tmp_path):
    samples = [("a", {"json": b"{}"}), ("b", {"jpg": b"none"})]
    save_folder_index(tmp_path, FolderIndex((write_shard(tmp_path / "a-0.tar", samples),)))
    with pytest.raises(ValueError, match="tells what it is, the last: no image, .* members: json; set modality"):
        shown(f"shards={tmp_path}", f"out={tmp_path}/a.html", "n=1")
    lines = shown(f"shards={tmp_path}", f"out={tmp_path}/a.html", "modality=vision", *SMALL)
    assert [line.partition(":")[0] for line in lines] == ["damaged", "damaged", f"{tmp_path}/a.html"]


def test_a_folder_in_place_of_the_file(tmp_path):
    make_shards(tmp_path / "s", (2,))
    shutil.copytree(tmp_path / "s", tmp_path / "x.html")
    with pytest.raises(ValueError, match="x.html is a folder: give the name of a file in it"):
        shown(f"shards={tmp_path / 's'}", f"out={tmp_path}/x.html")


def test_another_vocabulary_than_the_shards_is_refused(tmp_path):
    make_shards(tmp_path / "s", (2,), modality="text")
    with pytest.raises(ValueError, match="text.vocab_size=400, but the tokenizer .* has 300 types: set text.vocab"):
        shown(f"shards={tmp_path / 's'}", f"out={tmp_path}/a.html", "text.vocab_size=400")

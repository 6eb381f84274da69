from data_shards.index import read_rows, sidecar
from data_shards.validate import validate_shards
from tests.data_shards.shard_tools import command, flip_byte, make_shards


def test_good_shards_have_no_differences(tmp_path):
    assert validate_shards(make_shards(tmp_path, (5, 0, 3))) == ([], 3)


def test_a_flipped_byte_is_named_with_file_and_key(tmp_path):
    pattern = make_shards(tmp_path, (5, 3))
    shard = tmp_path / "train-000001.tar"
    flip_byte(shard, int(read_rows(shard)["offset"][1]) + 1600)
    done = command("validate", f"shards={pattern}")
    assert done.returncode == 1
    assert done.stdout == f"{shard}: key '000006' (row 1): checksum differs\n"


def test_each_kind_of_damage_is_found(tmp_path):
    pattern = make_shards(tmp_path, (4,) * 6)
    shards = sorted(tmp_path.glob("*.tar"))
    with shards[0].open("r+b") as file:
        file.truncate(int(read_rows(shards[0])["offset"][3]))
    shards[1].unlink()
    flip_byte(sidecar(shards[2]), sidecar(shards[2]).stat().st_size - 8)  # a checksum
    flip_byte(shards[3], shards[3].stat().st_size - 1)
    sidecar(shards[4]).unlink()
    lines, count = validate_shards(pattern)
    assert count == 6
    for shard, words in zip(shards, ("index.json says", "missing", "sha256", "damaged header", "no sidecar"),
                            strict=False):  # fmt: skip
        assert any(shard.stem in line and words in line for line in lines), (shard, lines)
    assert f"{shards[0]}: row 3: {read_rows(shards[0])['size'][3]} of" in "\n".join(lines)
    assert not any(shards[5].stem in line for line in lines)

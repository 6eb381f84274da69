import numpy as np
import pytest
import soundfile
import webdataset

from configs.schema_commands import BuildConfig
from configs.signals import frames
from data_shards.making.build import build
from data_shards.shards.index import load_index
from data_shards.shards.sidecar import read_rows
from data_shards.speech.audio import flac, read_audio
from tests.data_shards.shard_tools import clip, command, tree
from tests.data_shards.speech.recorded import NOISE, encoded, flac_total, mp3, put, without_xing


def build_audio(source, output, **keys):
    return build(BuildConfig(source="audiofolder", input=str(source), output=str(output), **{"workers": 1, **keys}))


def samples_of(output):
    dataset = webdataset.WebDataset(sorted(map(str, output.glob("*.tar"))), shardshuffle=False)
    return {sample["__key__"]: sample for sample in dataset}


def librispeech(root):
    """Two speakers, three utterances each, as LibriSpeech lays them out."""
    for speaker in ("19", "26"):
        folder = root / speaker / "198"
        folder.mkdir(parents=True)
        for i in range(3):
            (folder / f"{speaker}-198-{i:04d}.flac").write_bytes(clip(i + int(speaker), 3000))
        lines = "".join(f"{speaker}-198-{i:04d} TEXT {i} OF {speaker}\n" for i in range(3))
        (folder / f"{speaker}-198.trans.txt").write_text(lines)
    return root


def test_librispeech_keeps_its_bytes_its_speakers_and_its_texts(tmp_path):
    root = librispeech(tmp_path / "train-clean")
    lines = build_audio(root, tmp_path / "out")
    assert lines == [f"train: 6 samples in 1 shards, 0.00 hours, 2 classes: {tmp_path}/out"]
    sample = samples_of(tmp_path / "out")["26/198/26-198-0001"]
    assert sample["flac"] == (root / "26/198/26-198-0001.flac").read_bytes()
    assert (sample["cls"], sample["txt"]) == (b"1", b"TEXT 1 OF 26")
    assert load_index(str(tmp_path / "out")).classes == ("19", "26")
    assert set(read_rows(tmp_path / "out/train-000000.tar")["length"].tolist()) == {frames(3000)}


def test_any_rate_width_and_number_of_channels_becomes_flac_of_16_khz(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    wave = 0.3 * np.sin(np.arange(44100) / 20)
    soundfile.write(source / "stereo.wav", np.stack([wave, wave], 1), 44100, subtype="PCM_24")
    soundfile.write(source / "eight_bits.wav", wave[:16000], 16000, subtype="PCM_U8")
    soundfile.write(source / "lossy.ogg", wave, 44100)
    (source / "stereo.txt").write_text("beside it\n")
    build_audio(source, tmp_path / "out")
    found = samples_of(tmp_path / "out")
    assert {key: len(read_audio(sample["flac"])) for key, sample in found.items()} == {
        "stereo": 16000,
        "eight_bits": 16000,
        "lossy": 16000,
    }
    assert found["stereo"]["txt"] == b"beside it" and "txt" not in found["lossy"]
    assert not any("cls" in sample for sample in found.values())


def test_what_cannot_be_used_is_left_out_by_name(tmp_path):
    root = librispeech(tmp_path / "in")
    folder = root / "19/198"
    damaged = bytearray(clip(1, 9000))
    damaged[len(damaged) // 2] ^= 0xFF
    (folder / "damaged.flac").write_bytes(damaged)
    (folder / "text.wav").write_bytes(b"no audio")
    (folder / "empty.mp3").touch()
    (folder / "short.flac").write_bytes(clip(1, 399))  # below the receptive field
    (folder / "meta.json").write_text("{}")
    first = build_audio(root, tmp_path / "out")
    told = "\n".join(first)
    assert "left out 2 (damaged or no audio)" in told and "damaged.flac (damaged FLAC" in told
    for part in (
        f"(0 bytes): {root}/19/198/empty.mp3",
        "left out 1 (shorter than min_seconds=0.045)",
        "meta.json",
        "6 samples",
    ):
        assert part in told
    assert build_audio(root, tmp_path / "out") == first  # told again when nothing is left to do


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.wav").write_bytes(b"no audio")
    done = command("build", "source=audiofolder", f"input={tmp_path}/in", f"output={tmp_path}/out", "workers=1")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(
        f"error: train: no sample is left of input={tmp_path}/in; left out 1"
    )
    assert not (tmp_path / "out" / "index.json").exists()


def test_long_recordings_without_text_are_cut_evenly(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    samples = np.random.default_rng(0).integers(-999, 999, 40000).astype(np.int16)
    for name in ("read", "speech"):
        (source / f"{name}.flac").write_bytes(flac(samples))
    (source / "read.txt").write_text("a transcript belongs to the whole")
    build_audio(source, tmp_path / "out", segment_seconds=1.0)
    found = {key: read_audio(sample["flac"]) for key, sample in samples_of(tmp_path / "out").items()}
    assert sorted(found) == ["read", "speech/piece0000", "speech/piece0001", "speech/piece0002"]
    assert np.array_equal(np.concatenate([found[f"speech/piece000{i}"] for i in range(3)]), samples)
    assert {len(found[f"speech/piece000{i}"]) for i in range(3)} == {13333, 13334}


@pytest.mark.parametrize("kind", ["fairseq", "table"])
def test_manifests(tmp_path, kind):
    root = librispeech(tmp_path / "in")
    names = ["19/198/19-198-0000.flac", "26/198/26-198-0002.flac", "gone.flac", "19/198/19-198-0000.flac"]
    manifest = tmp_path / "train.tsv"
    if kind == "fairseq":
        manifest.write_text(f"{root}\n" + "".join(f"{name}\t3000\n" for name in names))
    else:
        rows = [f"in/{name}\tb{i}\tsaid {i}" for i, name in enumerate(names)]
        manifest.write_text("\n".join(["path\tlabel\ttext", *rows]) + "\n")
    lines = build_audio(manifest, tmp_path / "out")
    assert any("left out 1 (not there)" in line and "gone.flac" in line for line in lines)
    assert any("left out 1 (named twice)" in line and "19-198-0000.flac" in line for line in lines)
    found = samples_of(tmp_path / "out")
    assert len(found) == 2
    if kind == "table":
        assert (found["in/26/198/26-198-0002"]["cls"], found["in/26/198/26-198-0002"]["txt"]) == (b"1", b"said 1")


def test_a_line_of_a_manifest_that_is_not_utf8_is_left_out(tmp_path):
    librispeech(tmp_path / "in")
    rows = [b"19/198/19-198-0000.flac\tsaid", b"26/198/26-198-0002.flac\tna\xefve"]
    (tmp_path / "in" / "x.tsv").write_bytes(b"\n".join([b"path\ttext", *rows]))
    lines = build_audio(tmp_path / "in" / "x.tsv", tmp_path / "out")
    assert any(f"left out 1 (not UTF-8): {tmp_path}/in/x.tsv, line 3 (" in line for line in lines)
    assert len(samples_of(tmp_path / "out")) == 1


@pytest.mark.parametrize(
    ("content", "told"), [("a\tb\n", "is no manifest"), ("path\n", "holds no recording"), (None, "is not there")]
)
def test_what_is_no_source(tmp_path, content, told):
    path = tmp_path / "in.tsv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=f"{path} {told}"):
        build_audio(path, tmp_path / "out")


def test_unreadable_recordings_and_transcripts_are_left_out(tmp_path):
    root = librispeech(tmp_path / "in")
    for name in ("gone.txt", "self.flac"):
        (root / "19/198" / name).symlink_to(name)
    told = "\n".join(build_audio(root, tmp_path / "out"))
    assert "6 samples" in told and f"(broken link or no plain file): {root}/19/198/self.flac" in told
    assert f"(unreadable: Too many levels of symbolic links): {root}/19/198/gone.txt (transcripts)" in told


def test_same_bytes_for_any_number_of_processes(tmp_path):
    root = librispeech(tmp_path / "in")
    for i in range(200):
        (root / "19" / f"{i}.flac").write_bytes(clip(i, 10000))
    for name, workers in (("one", 1), ("two", 2)):
        build_audio(root, tmp_path / name, workers=workers, shard_mb=1)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert len(list((tmp_path / "one").glob("*.tar"))) > 1


def test_wrong_lengths_in_headers_lose_nothing_or_are_named(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    files = {
        "plain.wav": encoded(),
        "no_header.mp3": without_xing(mp3()),
        "chained.ogg": encoded(kind="OGG", subtype="VORBIS") * 2,
        "crashed_recorder.wav": put(encoded(), 40, "<I", 0),
        "too_few.flac": flac_total(encoded(kind="FLAC"), 4096),
        "too_many.flac": flac_total(encoded(kind="FLAC"), 90_000),
        "half.wav": put(encoded(), 40, "<I", 80_000),
        "cut.au": encoded(kind="AU")[:-5000],
    }
    for name, data in files.items():
        (source / name).write_bytes(data)
    told = "\n".join(build_audio(source, tmp_path / "out"))
    for name in ("too_many.flac", "half.wav", "cut.au"):
        assert f"{source}/{name} (" in told
    assert "left out 3 (damaged or no audio)" in told
    seconds = {key: len(read_audio(sample["flac"])) / 16000 for key, sample in samples_of(tmp_path / "out").items()}
    assert 0 <= seconds.pop("no_header") - 5 < 0.1  # what the encoder adds
    assert seconds == {"plain": 5, "chained": 10, "crashed_recorder": 5, "too_few": 5}


def test_what_the_stored_form_cannot_keep_is_named(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "plain.wav").write_bytes(encoded())
    (source / "loud.wav").write_bytes(encoded(NOISE * 4, subtype="FLOAT"))
    (source / "opposed.wav").write_bytes(encoded(np.stack([NOISE, -NOISE], 1)))
    first = build_audio(source, tmp_path / "out")
    told = "\n".join(first)
    assert "kept 1 (louder than full scale, clipped): " in told and "loud.wav (" in told
    assert "left out 1 (channels that cancel each other to silence; keep one of them): " in told
    assert set(samples_of(tmp_path / "out")) == {"plain", "loud"}
    assert build_audio(source, tmp_path / "out") == first
    assert "louder than full scale" in (tmp_path / "out/.build/train/left_out.tsv").read_text()

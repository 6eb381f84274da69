import multiprocessing
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from data_shards.shards.cache import Cache, own_folder


def size_of(folder: Path) -> int:
    """Bytes of all pieces at one moment, half-written ones among them. folder: `data.cache_dir`."""
    total, cache = 0, Cache(folder, 1)
    with cache._locked(cache.folder / "lock"):  # under which pieces come and go
        for part in pieces(folder):
            try:
                total += part.stat().st_size
            except FileNotFoundError:
                continue
    return total


def pieces(folder: Path) -> list[Path]:
    return list(own_folder(folder).glob("[0-9a-f][0-9a-f]/*"))


def piece(number: int, size: int = 1000) -> bytes:
    return bytes([number % 256]) * size


def get(cache: Cache, number: int, size: int = 1000) -> bytes:
    path, data = cache.get(f"piece {number}", size, lambda: piece(number, size))
    return data if data is not None else path.read_bytes()


def test_a_piece_is_fetched_once(tmp_path):
    cache = Cache(tmp_path / "cache", 10_000)
    path, data = cache.get("a", 3, lambda: b"abc")
    assert data == b"abc" == path.read_bytes()
    assert cache.get("a", 3, pytest.fail) == (path, None)
    assert Cache(tmp_path / "cache", 10_000).get("a", 3, pytest.fail) == (path, None), "another job"


def test_what_was_used_the_longest_ago_makes_room(tmp_path):
    cache = Cache(tmp_path, 10_000)
    for number in range(10):
        get(cache, number)
        os.utime(cache.path(f"piece {number}"), (number, number))
    get(cache, 0)
    get(cache, 10)
    there = {number for number in range(11) if cache.path(f"piece {number}").exists()}
    assert there == {0, *range(3, 11)}, "room is made down to nine tenths"
    assert size_of(tmp_path) <= 10_000


def test_a_piece_of_another_size_is_fetched_again(tmp_path):
    cache = Cache(tmp_path, 10_000)
    get(cache, 1)
    cache.path("piece 1").write_bytes(b"cut off")
    assert get(cache, 1) == piece(1) == cache.path("piece 1").read_bytes()
    cache.drop("piece 1")
    assert get(cache, 1) == piece(1)


def test_a_piece_that_does_not_fit_is_given_and_not_kept(tmp_path):
    cache = Cache(tmp_path, 900)
    assert cache.get("a", 1000, lambda: piece(1)) == (None, piece(1))
    assert size_of(tmp_path) == 0


def test_an_error_while_fetching_leaves_nothing(tmp_path):
    cache = Cache(tmp_path, 10_000)

    def fail() -> bytes:
        raise OSError("no answer")

    with pytest.raises(OSError, match="no answer"):
        cache.get("a", 3, fail)
    assert size_of(tmp_path) == 0 and cache.get("a", 3, lambda: b"abc")[1] == b"abc"


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"data\.cache_dir=.*/file/cache: .*choose another"):
        Cache(tmp_path / "file" / "cache", 1)


def users_files(folder: Path) -> dict[str, bytes]:
    """A user's folders as a cache of two-letter folders would have them, with old files; their contents."""
    for number, name in enumerate(("en/a.flac", "de/b.flac", "fr/c.flac", ".git/objects/ab/" + "ab" * 19, "ab/notes")):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]) * 900)
        os.utime(path, (number, number))
    return contents(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below the folder that is not in the cache's own."""
    own = own_folder(folder)
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file() and own not in path.parents}


def test_the_users_own_files_are_left_alone(tmp_path):
    before = users_files(tmp_path)
    cache = Cache(tmp_path, 2_500)
    for number in range(9):
        get(cache, number)
    assert contents(tmp_path) == before and 0 < size_of(tmp_path) <= 2_500
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_what_is_no_piece_is_not_removed_from_the_caches_own_folder(tmp_path):
    cache = Cache(tmp_path / "cache", 2_500)
    (cache.folder / "ab").mkdir()
    strangers = [cache.folder / name for name in ("ab/notes.txt", "ab/" + "cd" * 20)]
    for stranger in strangers:
        stranger.write_bytes(bytes(2_000))
        os.utime(stranger, (0, 0))
    for number in range(9):
        get(cache, number)
    assert all(stranger.is_file() for stranger in strangers)


def test_a_folder_that_the_cache_did_not_make_is_refused(tmp_path):
    own = own_folder(tmp_path / "a")
    shutil.rmtree(own)
    users_files(tmp_path / "photos")
    own.symlink_to(tmp_path / "photos")
    with pytest.raises(ValueError, match=r"data\.cache_dir=.*/a: data2vec-cache-\d+ in it is a link.*choose another"):
        Cache(tmp_path / "a", 10)
    own.unlink()
    shutil.copytree(tmp_path / "photos", own)
    with pytest.raises(ValueError, match=r"data\.cache_dir=.*/a: the cache did not make .*/(\.git|en|fr): choose"):
        Cache(tmp_path / "a", 10)
    (own_folder(tmp_path / "b") / "ab").symlink_to(tmp_path / "photos/en")
    with pytest.raises(ValueError, match=r"/ab is a link, which the cache did not make"):
        Cache(tmp_path / "b", 10)
    assert (tmp_path / "photos/en/a.flac").is_file()


def test_another_users_folder_is_refused(tmp_path, monkeypatch):
    own = own_folder(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    own.rename(own.with_name(f"data2vec-cache-{os.geteuid()}"))
    with pytest.raises(ValueError, match="belongs to another user: choose another"):
        Cache(tmp_path, 10)


def test_a_cleaner_of_temporary_files_that_takes_the_marker_does_not_lock_the_user_out(tmp_path):
    cache = Cache(tmp_path, 10_000)
    get(cache, 1)
    (cache.folder / "made-by-data2vec").unlink()
    assert Cache(tmp_path, 10_000).get("piece 1", 1000, pytest.fail)[0]


def test_a_full_disk_is_a_warning(tmp_path, caplog, monkeypatch):
    cache = Cache(tmp_path, 10_000)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    for number in range(3):
        assert cache.get(str(number), 1000, lambda: piece(1)) == (None, piece(1))
    assert caplog.text.count("No space left on device") == 1 and size_of(tmp_path) == 0


def test_processes_share_it_within_its_bytes(tmp_path):
    """Each fetch writes a line, so the lines tell how often a piece was fetched."""
    program = (
        "import sys; from pathlib import Path; from data_shards.shards.cache import Cache, own_folder\n"
        "cache, log = Cache(Path(sys.argv[1]), 20_000), open(sys.argv[2], 'a')\n"
        "def fetch(n):\n"
        "    log.write(f'{n}\\n'); log.flush()\n"
        "    return bytes([n]) * 1000\n"
        "for n in [*range(15), *range(15)]:\n"
        "    path, data = cache.get(f'piece {n}', 1000, lambda: fetch(n))\n"
        "    assert (data or path.read_bytes()) == bytes([n]) * 1000\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "cache"), str(tmp_path / "log")]
    jobs = [subprocess.Popen(command) for _ in range(3)]
    most = 0
    while any(job.poll() is None for job in jobs):
        most = max(most, size_of(tmp_path / "cache"))
        time.sleep(0.01)
    assert all(job.returncode == 0 for job in jobs)
    fetched = (tmp_path / "log").read_text().split()
    assert sorted(map(int, fetched)) == list(range(15)), "one process fetches, the others wait for it"
    assert most <= 20_000


def test_many_threads_over_the_limit(tmp_path):
    cache, most = Cache(tmp_path, 5_000), 0
    with ThreadPoolExecutor(8) as pool:
        for number, data in enumerate(pool.map(lambda number: get_or_again(cache, number), range(300))):
            assert data == piece(number)
            most = max(most, size_of(tmp_path))
    assert most <= 5_000 and size_of(tmp_path) > 2_000


def get_or_again(cache: Cache, number: int) -> bytes:
    while True:
        try:
            return get(cache, number)
        except FileNotFoundError:  # removed between `get` and the reading, as readers have to expect
            continue


def test_a_kill_in_the_middle_leaves_a_cache_that_works(tmp_path):
    context = multiprocessing.get_context("fork")
    for round_number in range(5):
        child = context.Process(target=fill_for_ever, args=(tmp_path / "cache", round_number))
        child.start()
        time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    cache = Cache(tmp_path / "cache", 5_000)
    assert [get_or_again(cache, number) == piece(number) for number in range(50)] == [True] * 50
    assert size_of(tmp_path / "cache") <= 5_000
    shutil.rmtree(tmp_path / "cache")


def fill_for_ever(folder: Path, first: int) -> None:
    cache, number = Cache(folder, 5_000), first
    while True:
        get(cache, number)
        number += 7

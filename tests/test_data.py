"""The data sets: what they hold, and what happens when they cannot be had."""

import errno
import gzip
import hashlib
import os

import numpy as np
import pooch
import pytest
import torch

from optcore import data


@pytest.fixture(scope="module")
def real_mnist():
    if not data.mnist_available():
        pytest.skip("MNIST is neither in the cache nor to be downloaded")
    return data.mnist()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTCORE_DATA", str(tmp_path))
    (tmp_path / "mnist").mkdir()
    return tmp_path / "mnist"


@pytest.fixture
def offline(monkeypatch):
    """No download succeeds; the addresses that were tried."""
    tried = []

    def fail(self, url, output_file, pooch, check_only=False):
        tried.append(url)
        raise ConnectionError("no network")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fail)
    return tried


@pytest.fixture
def small_mnist(monkeypatch):
    """Four small files in MNIST's format, with their checksums in place of the real ones."""

    def idx(array):
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        return gzip.compress(head + array.tobytes(), mtime=0)

    x = np.arange(10_003 * 6, dtype=np.uint32).astype(np.uint8).reshape(-1, 2, 3)
    y = (np.arange(10_003) % 10).astype(np.uint8)
    arrays = (x, y, x[:5], y[:5])
    files = {name: idx(a) for name, a in zip(data.MNIST_MD5, arrays, strict=True)}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(data, "MNIST_MD5", sums)
    return files


def serve(monkeypatch, files, broken=()):
    """Download from `files`, except from the mirrors in `broken`."""

    def download(self, url, output_file, pooch, check_only=False):
        if url.startswith(tuple(broken)):
            raise ConnectionError("no answer")
        with open(output_file, "wb") as file:
            file.write(files[url.rsplit("/", 1)[1]])

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", download)


def test_mnist(real_mnist):
    d = real_mnist
    assert (d.name, d.shape) == ("MNIST", (28, 28))
    assert (d.x.shape, d.x_val.shape, d.x_test.shape) == (
        (50_000, 784),
        (10_000, 784),
        (10_000, 784),
    )
    assert (len(d.y), len(d.y_val), len(d.y_test)) == (50_000, 10_000, 10_000)
    assert (d.x.dtype, d.y.dtype) == (torch.float32, torch.int64)
    assert (d.x.min().item(), d.x.max().item()) == (0, 1)
    # The known mean pixel of the 60 000 training images.
    assert torch.cat([d.x, d.x_val]).double().mean().item() == pytest.approx(0.1306604762738429)
    assert d.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert d.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert torch.cat([d.y, d.y_val]).bincount().tolist() == counts


def test_parts_of_a_small_mnist(cache, small_mnist, offline):
    for name, content in small_mnist.items():
        (cache / name).write_bytes(content)
    d = data.mnist()
    assert (d.x.shape, d.x_val.shape, d.x_test.shape) == ((3, 6), (10_000, 6), (5, 6))
    torch.testing.assert_close(d.x[1], torch.arange(6, 12) / 255)
    assert (d.y.tolist(), d.y_val[:2].tolist(), d.y_test.tolist()) == (
        [0, 1, 2],
        [3, 4],
        [0, 1, 2, 3, 4],
    )
    assert not offline
    assert data.mnist_available()


def test_the_second_mirror_helps_out_and_the_cache_is_kept(cache, small_mnist, monkeypatch):
    serve(monkeypatch, small_mnist, broken=data.MIRRORS[:1])
    assert len(data.mnist().y) == 3
    assert {file.name for file in cache.iterdir()} == set(data.MNIST_MD5)
    serve(monkeypatch, {}, broken=data.MIRRORS)
    assert len(data.mnist().y) == 3


PAGE = (
    "MNIST is not here and could not be downloaded. This page runs on scikit-learn's digits "
    "instead: its numbers differ.\n"
)
FIRST = "train-images-idx3-ubyte.gz"


def assert_one_clear_sentence(error, cache):
    text = str(error)
    assert text.startswith(f"MNIST's file {FIRST} is not in {cache} and could not be downloaded (")
    assert text.endswith("connect once, or put the four original .gz files there.")
    assert "\n" not in text


def test_offline_without_a_cache(cache, offline, capsys):
    with pytest.raises(data.DataUnavailable) as error:
        data.mnist()
    assert_one_clear_sentence(error.value, cache)
    assert "ConnectionError" in str(error.value)
    assert offline == [mirror + FIRST for mirror in data.MIRRORS]
    assert not data.mnist_available()
    capsys.readouterr()
    assert data.mnist_or_digits().name == "digits"
    assert capsys.readouterr().out == PAGE


def test_a_mirror_that_delivers_something_else(cache, monkeypatch):
    serve(monkeypatch, dict.fromkeys(data.MNIST_MD5, b"<html>Please log in</html>"))
    with pytest.raises(data.DataUnavailable) as error:
        data.mnist()
    assert_one_clear_sentence(error.value, cache)
    for mirror in data.MIRRORS:
        assert f"{mirror} delivers another file" in str(error.value)
    assert not any(cache.iterdir())


@pytest.fixture
def filled(cache, small_mnist, monkeypatch):
    """A cache that holds all files; mirrors that would deliver them, too."""
    for name, content in small_mnist.items():
        (cache / name).write_bytes(content)
    serve(monkeypatch, small_mnist)
    return cache


def assert_told_and_kept(fault, file):
    """Each way to the data says what is wrong with the file, and leaves all as it is."""
    before = {path: path.lstat().st_mtime_ns for path in file.parent.rglob("*")}
    for function in (data.mnist, data.mnist_available, data.mnist_or_digits):
        with pytest.raises(data.DataDamaged) as error:
            function()
        assert str(error.value) == (
            f"MNIST's file {file} {fault}: move it away and it will be downloaded again, or put "
            "the original in its place."
        )
    assert {path: path.lstat().st_mtime_ns for path in file.parent.rglob("*")} == before


def flipped(content):
    return content[:500] + bytes([content[500] ^ 1]) + content[501:]


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        lambda content: content[:-100],
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        gzip.decompress,
        lambda content: b"<!doctype html><title>Please log in</title>",
    ],
    ids=["one bit", "truncated", "half", "empty", "decompressed", "login page"],
)
@pytest.mark.parametrize("name", [FIRST, "t10k-labels-idx1-ubyte.gz"])
def test_a_damaged_file_is_called_damaged_and_kept(filled, damage, name):
    if name != FIRST:  # found before anything is downloaded, and not taken for missing, too
        (filled / FIRST).unlink()
    content = (filled / name).read_bytes()
    damaged = damage(content + bytes(600) if damage is flipped else content)
    (filled / name).write_bytes(damaged)
    found = hashlib.md5(damaged).hexdigest()
    assert_told_and_kept(
        f"is damaged (its MD5 checksum is {found}, the original's {data.MNIST_MD5[name]})",
        filled / name,
    )
    assert (filled / name).read_bytes() == damaged


def test_a_file_that_may_not_be_read(filled, monkeypatch):
    # Root may read everything: the operating system's answer is simulated.
    def refuse(file, alg):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

    monkeypatch.setattr(pooch, "file_hash", refuse)
    assert_told_and_kept("cannot be read (Permission denied)", filled / FIRST)


def test_a_folder_in_place_of_a_file(filled):
    (filled / FIRST).unlink()
    (filled / FIRST).mkdir()
    (filled / FIRST / "inside").write_bytes(b"kept")
    assert_told_and_kept("cannot be read (Is a directory)", filled / FIRST)


def test_a_link_that_leads_nowhere(filled):
    (filled / FIRST).unlink()
    (filled / FIRST).symlink_to(filled / "a drive that is not connected")
    assert_told_and_kept("cannot be read (No such file or directory)", filled / FIRST)


def test_a_file_in_place_of_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTCORE_DATA", str(tmp_path))
    (tmp_path / "mnist").write_bytes(b"kept")
    with pytest.raises(data.DataDamaged, match=f"{FIRST} cannot be read .Not a directory.: "):
        data.mnist()
    assert (tmp_path / "mnist").read_bytes() == b"kept"


def read_only(monkeypatch, folder):
    """No file can be made in `folder`: simulated, since root may write anywhere."""

    def refuse(dir):
        assert dir == folder
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(data, "TemporaryFile", refuse)


def test_a_full_read_only_cache_is_used(filled, monkeypatch):
    read_only(monkeypatch, filled)
    assert len(data.mnist().y) == 3


def test_a_read_only_cache_with_a_damaged_file(filled, monkeypatch):
    read_only(monkeypatch, filled)
    (filled / FIRST).write_bytes(b"")
    empty = hashlib.md5(b"").hexdigest()
    expected = data.MNIST_MD5[FIRST]
    assert_told_and_kept(
        f"is damaged (its MD5 checksum is {empty}, the original's {expected})", filled / FIRST
    )


def test_a_read_only_cache_without_a_file(filled, monkeypatch, capsys):
    read_only(monkeypatch, filled)
    (filled / FIRST).unlink()
    with pytest.raises(data.DataUnavailable) as error:
        data.mnist()
    assert str(error.value) == (
        f"MNIST's file {FIRST} is not in {filled}, which cannot be written to (Read-only file "
        "system): put the four original .gz files there, or set OPTCORE_DATA to a folder that can."
    )
    assert data.mnist_or_digits().name == "digits"
    assert capsys.readouterr().out == PAGE


def test_a_disk_that_fills_up_is_named(cache, monkeypatch):
    def fail(self, url, output_file, pooch, check_only=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", fail)
    with pytest.raises(data.DataUnavailable, match="mnist/: No space left on device; https"):
        data.mnist()


def test_the_folder_is_made_and_may_begin_with_a_tilde(tmp_path, small_mnist, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("OPTCORE_DATA", "~/a/b")
    serve(monkeypatch, small_mnist)
    assert len(data.mnist().y) == 3
    assert {file.name for file in (tmp_path / "a/b/mnist").iterdir()} == set(data.MNIST_MD5)


def test_mnist_or_digits_takes_mnist_where_it_can(cache, small_mnist, monkeypatch, capsys):
    serve(monkeypatch, small_mnist)
    assert data.mnist_or_digits().name == "MNIST"
    assert not capsys.readouterr().out


def test_digits():
    d = data.digits()
    assert (d.name, d.shape) == ("digits", (8, 8))
    assert (d.x.shape, d.x_val.shape, d.x_test.shape) == ((1197, 64), (300, 64), (300, 64))
    assert (len(d.y), len(d.y_val), len(d.y_test)) == (1197, 300, 300)
    assert (d.x.dtype, d.y.dtype) == (torch.float32, torch.int64)
    assert (d.x.min().item(), d.x.max().item()) == (0, 1)
    # Every class in every part, the same in every call, each image with its own label.
    for y in (d.y, d.y_val, d.y_test):
        assert y.bincount(minlength=10).min() >= 20
    assert torch.equal(d.x, data.digits().x)
    neighbour = torch.cdist(d.x_val, d.x).argmin(1)
    assert (d.y[neighbour] == d.y_val).double().mean() > 0.95


@pytest.mark.parametrize(
    ("cuda", "mps", "dtype", "expected"),
    [
        (True, False, torch.float64, "cuda"),
        (True, True, torch.float32, "cuda"),
        (False, True, torch.float32, "mps"),
        (False, True, torch.float64, "cpu"),
        (False, False, torch.float32, "cpu"),
    ],
)
def test_device(monkeypatch, cuda, mps, dtype, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert data.device(dtype).type == expected


def test_coarse_images_are_means_of_squares():
    digits = data.digits()
    small = data.coarse(digits, 4)
    assert small.shape == (4, 4)
    assert (small.x.shape, small.x_val.shape, small.x_test.shape) == (
        (1197, 16), (300, 16), (300, 16)
    )  # fmt: skip
    image = digits.x_test[7].view(8, 8)
    assert small.x_test[7].view(4, 4)[1, 3].item() == pytest.approx(
        image[2:4, 6:8].mean().item(), rel=1e-6
    )
    assert torch.equal(data.coarse(digits, 14).x, digits.x)
    assert small.y is digits.y
    with pytest.raises(ValueError, match="side must be at least 1, got 0"):
        data.coarse(digits, 0)
    with pytest.raises(ValueError, match=r"images of \(8, 8\) pixels do not divide into 3×3"):
        data.coarse(digits, 3)


# Deliberate mistakes that these tests must catch: (file of optcore, where in it the search for
# `old` begins): [(old, new), …]. `tests/mutants.py` makes them, one at a time.
MUTANTS = {
    ("data.py", "def mnist("): [
        ("div_(255)", "div_(256)"),
        ("x[:cut], y[:cut], x[cut:], y[cut:]", "x[-cut:], y[-cut:], x[:-cut], y[:-cut]"),
        ("y[cut:], x_test", "y[:10_000], x_test"),
    ],
    ("data.py", "def coarse("): [
        ("(rows, columns)", "(columns + 1, rows)"),
        ("math.ceil(max(data.shape) / side)", "side"),
    ],
    ("data.py", "def digits("): [
        ("bunch.target[order]", "bunch.target"),
        ("default_rng(0)", "default_rng()"),
    ],
    ("data.py", "def mnist_or_digits("): [
        ("except DataUnavailable", "except (DataUnavailable, DataDamaged)"),
    ],
    ("data.py", "def mnist_available("): [
        ("except DataUnavailable", "except (DataUnavailable, DataDamaged)"),
    ],
    ("data.py", "def _mnist_files("): [
        (".expanduser()", ""),
        ("    for file in missing:\n        _download(file)\n", ""),
        (
            "missing = [file for file in files if not _is_there(file)]",
            "missing = (file for file in files if not _is_there(file))",
        ),
    ],
    ("data.py", "def _is_there("): [
        (" and not file.is_symlink()", ""),
        ("isinstance(error, FileNotFoundError) and ", ""),
        ("if found == expected", "if found"),
        ("found}, the original's {expected", "expected}, the original's {found"),
    ],
    ("data.py", "def _download("): [
        ('known_hash=f"md5:{MNIST_MD5[file.name]}"', "known_hash=None"),
        ("in MIRRORS", "in MIRRORS[:1]"),
        ("except ValueError", "except KeyError"),
        ("{error.strerror or type(error).__name__}", "{type(error).__name__}"),
        ("{error.strerror or type(error).__name__}", "{error.strerror}"),
        ("        TemporaryFile(dir=file.parent).close()\n", ""),
        ("        file.parent.mkdir(parents=True, exist_ok=True)\n", ""),
    ],
    ("data.py", "def device("): [
        (" and dtype != torch.float64", ""),
    ],
}

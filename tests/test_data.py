"""The data sets: what they hold, and what happens when they cannot be had."""

import gzip
import hashlib
import os
import re
import tempfile

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


def assert_one_clear_sentence(error):
    text = str(error)
    assert text.startswith("MNIST's file train-images-idx3-ubyte.gz is not in $OPTCORE_DATA/mnist")
    assert text.endswith("put the four original .gz files there.")
    assert "\n" not in text
    assert "/tmp" not in text


def test_offline_without_a_cache(cache, offline, capsys):
    with pytest.raises(data.DataUnavailable) as error:
        data.mnist()
    assert_one_clear_sentence(error.value)
    assert "ConnectionError" in str(error.value)
    assert offline == [mirror + "train-images-idx3-ubyte.gz" for mirror in data.MIRRORS]
    assert not data.mnist_available()
    capsys.readouterr()
    assert data.mnist_or_digits().name == "digits"
    printed = capsys.readouterr().out
    assert printed.startswith("MNIST's file")
    assert printed.endswith(
        "This page runs on scikit-learn's digits instead: its numbers differ.\n"
    )


NAME = "train-images-idx3-ubyte.gz"
KINDS_OF_DAMAGE = {
    "a flipped bit": lambda content: content[:50] + bytes([content[50] ^ 1]) + content[51:],
    "truncated": lambda content: content[:-7],
    "empty": lambda content: b"",
    "decompressed under the same name": gzip.decompress,
    "a captive portal's page": lambda content: b"<html>Please log in</html>",
}


def refuse(*args, **kwargs):
    raise PermissionError("/tmp/a path of this machine")


@pytest.fixture
def filled(cache, small_mnist):
    for name, content in small_mnist.items():
        (cache / name).write_bytes(content)
    return cache


def sentence_about_damage(capsys):
    """The sentence that all four ways to the data agree on."""
    with pytest.raises(data.DataDamaged) as error:
        data.mnist()
    with pytest.raises(data.DataDamaged, match=re.escape(str(error.value))):
        data.mnist_available()
    capsys.readouterr()
    assert data.mnist_or_digits().name == "digits"
    assert capsys.readouterr().out == (
        f"{error.value} This page runs on scikit-learn's digits instead: its numbers differ.\n"
    )
    assert "/tmp" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("kind", KINDS_OF_DAMAGE)
def test_a_damaged_file_is_called_damaged_and_is_kept(
    filled, small_mnist, monkeypatch, capsys, kind, connected
):
    serve(monkeypatch, small_mnist, broken=() if connected else data.MIRRORS)
    damaged = KINDS_OF_DAMAGE[kind](small_mnist[NAME])
    (filled / NAME).write_bytes(damaged)
    assert sentence_about_damage(capsys) == (
        f"MNIST's file {NAME} in $OPTCORE_DATA/mnist is damaged or is not the original .gz (its "
        f"MD5 is {hashlib.md5(damaged).hexdigest()}, not {data.MNIST_MD5[NAME]}): delete it and "
        "connect once, or put the original there."
    )
    assert (filled / NAME).read_bytes() == damaged
    assert {file.name for file in filled.iterdir()} == set(data.MNIST_MD5)


@pytest.mark.parametrize("name", data.MNIST_MD5)
def test_any_of_the_four_files_can_be_the_damaged_one(filled, offline, capsys, name):
    (filled / name).write_bytes(b"x")
    assert sentence_about_damage(capsys).startswith(f"MNIST's file {name} in ")


def test_a_folder_of_that_name(filled, offline, capsys):
    (filled / NAME).unlink()
    (filled / NAME).mkdir()
    sentence = sentence_about_damage(capsys)
    assert sentence.startswith(f"MNIST's file {NAME} in $OPTCORE_DATA/mnist cannot be read (")
    assert sentence.endswith("Error): put the original there, readable.")
    assert not offline
    assert (filled / NAME).is_dir()


def test_a_file_that_may_not_be_read(filled, offline, monkeypatch, capsys):
    (filled / NAME).chmod(0)
    if os.access(filled / NAME, os.R_OK):  # root may read everything
        monkeypatch.setattr(pooch, "file_hash", refuse)
    assert "cannot be read (PermissionError)" in sentence_about_damage(capsys)
    assert not offline


def test_a_cache_that_may_only_be_read_is_read(filled, offline, monkeypatch):
    filled.chmod(0o555)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert len(data.mnist().y) == 3
    assert not offline


def test_nothing_can_be_downloaded_to_a_cache_that_may_only_be_read(cache, offline, monkeypatch):
    cache.chmod(0o555)
    if os.access(cache, os.W_OK):  # root may write everywhere
        monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(data.DataUnavailable) as error:
        data.mnist()
    assert_one_clear_sentence(error.value)
    assert "where nothing can be written (PermissionError): set OPTCORE_DATA" in str(error.value)
    assert not offline
    assert not data.mnist_available()


def test_the_folder_may_be_given_from_home(filled, offline, monkeypatch):
    monkeypatch.setenv("HOME", str(filled.parent))
    monkeypatch.setenv("USERPROFILE", str(filled.parent))
    monkeypatch.setenv("OPTCORE_DATA", "~")
    assert len(data.mnist().y) == 3


def test_a_mirror_that_delivers_something_else(cache, monkeypatch):
    serve(monkeypatch, dict.fromkeys(data.MNIST_MD5, b"<html>Please log in</html>"))
    with pytest.raises(data.DataUnavailable) as error:
        data.mnist()
    assert not isinstance(error.value, data.DataDamaged)
    assert_one_clear_sentence(error.value)
    assert "cvdf-datasets/mnist/: wrong MD5" in str(error.value)
    assert not any(cache.iterdir())


def test_a_download_that_breaks_off_leaves_nothing(cache, monkeypatch):
    def break_off(self, url, output_file, pooch, check_only=False):
        with open(output_file, "wb") as file:
            file.write(b"half a file")
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(pooch.HTTPDownloader, "__call__", break_off)
    with pytest.raises(data.DataUnavailable, match="ConnectionResetError"):
        data.mnist()
    assert not any(cache.iterdir())


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
        ("/ 255", "/ 256"),
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
    ("data.py", "def _mnist_file("): [
        ('known_hash=f"md5:{md5}"', "known_hash=None"),
        ("if found:", "if not found:"),
        ("if found == md5:", "if found:"),
        ("except FileNotFoundError:", "except OSError:"),
        ("raise DataDamaged(", "raise DataUnavailable("),
        ("is {found}, not {md5}", "is {md5}, not {found}"),
        (".expanduser()", ""),
        ("        tempfile.TemporaryFile(dir=folder).close()\n", ""),
        ("{missing}, where nothing", "{missing} {folder}, where nothing"),
        ("in MIRRORS", "in MIRRORS[:1]"),
        ("(OSError, ValueError)", "OSError"),
    ],
    ("data.py", "def mnist_available("): [
        ("    except DataDamaged:\n        raise\n", ""),
    ],
    ("data.py", "def device("): [
        (" and dtype != torch.float64", ""),
    ],
}

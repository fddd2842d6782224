"""MNIST, downloaded once and verified; scikit-learn's embedded digits; the device to compute on."""

from __future__ import annotations

import gzip
import math
import os
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn.functional import avg_pool2d

with warnings.catch_warnings():
    # In a notebook without ipywidgets the progress bar that pooch imports would complain.
    warnings.filterwarnings("ignore", "IProgress not found")
    import pooch

MIRRORS = (
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
)
MNIST_MD5 = {
    "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
    "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
    "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
}
DOWNLOAD_TIMEOUT_S = 20
pooch.get_logger().setLevel("WARNING")  # its progress bar says enough


class DataUnavailable(RuntimeError):
    """A data set is neither in the cache nor to be had from a mirror."""


class DataDamaged(DataUnavailable):
    """A file of a data set is in the cache, and is not the original or cannot be read."""


class Data(NamedTuple):
    """Labelled images in three parts; x: float32 (n, pixels) in [0, 1]; y: int64 (n,)."""

    name: str
    shape: tuple[int, int]
    x: Tensor
    y: Tensor
    x_val: Tensor
    y_val: Tensor
    x_test: Tensor
    y_test: Tensor


def device(dtype: torch.dtype = torch.float32) -> torch.device:
    """The fastest device here that computes in `dtype`: CUDA, then Apple's MPS, then the CPU.

    MPS has no float64, so `device(torch.float64)` is the CPU there.
    """
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available() and dtype != torch.float64:
        return torch.device("mps")
    return torch.device("cpu")


def mnist() -> Data:
    """MNIST: 50 000 images to train on, 10 000 to validate, 10 000 to test.

    The validation images are the last of the training set. The four original files are looked for
    in `$OPTCORE_DATA/mnist`, or in the platform's cache folder if the variable is not set; what is
    missing is downloaded there, from the first mirror that answers, and every file is verified by
    its MD5. A file that is there is never changed or removed, whatever is in it.
    Source: LeCun, Bottou, Bengio and Haffner (1998), doi:10.1109/5.726791.

    Raises:
        DataUnavailable: a file is not in the cache and no mirror delivers it.
        DataDamaged: a file is in the cache, and is not the original or cannot be read.
    """
    files = [_mnist_file(name) for name in MNIST_MD5]
    x, y, x_test, y_test = (_read_idx(file) for file in files)
    x, x_test = (torch.tensor(a).flatten(1).float() / 255 for a in (x, x_test))
    y, y_test = (torch.tensor(a).long() for a in (y, y_test))
    cut = len(x) - 10_000
    return Data("MNIST", (28, 28), x[:cut], y[:cut], x[cut:], y[cut:], x_test, y_test)


def digits() -> Data:
    """scikit-learn's embedded digits, 8×8 pixels: 1 197 to train, 300 to validate, 300 to test.

    The order is shuffled with a fixed seed, since the file is sorted by writer.
    Source: Alpaydin and Kaynak (1998), UCI Machine Learning Repository, doi:10.24432/C50P49.
    """
    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    x = torch.from_numpy(bunch.data[order] / 16).float()
    y = torch.from_numpy(bunch.target[order]).long()
    (x, x_val, x_test), (y, y_val, y_test) = (a.split([1197, 300, 300]) for a in (x, y))
    return Data("digits", (8, 8), x, y, x_val, y_val, x_test, y_test)


def mnist_or_digits() -> Data:
    """`mnist()`, or `digits()` where MNIST cannot be had or is damaged; then it says so."""
    try:
        return mnist()
    except DataUnavailable as error:
        print(f"{error} This page runs on scikit-learn's digits instead: its numbers differ.")
        return digits()


def coarse(data: Data, side: int) -> Data:
    """Average squares of pixels until images have at most `side` rows and columns.

    Raises:
        ValueError: `side` is below 1, or an image does not divide into squares of that many pixels.
    """
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}.")
    pixels = math.ceil(max(data.shape) / side)
    if any(length % pixels for length in data.shape):
        raise ValueError(f"images of {data.shape} pixels do not divide into {pixels}×{pixels}.")
    means = [
        avg_pool2d(x.view(-1, 1, *data.shape), pixels).flatten(1)
        for x in (data.x, data.x_val, data.x_test)
    ]
    rows, columns = (length // pixels for length in data.shape)
    return data._replace(
        shape=(rows, columns), **dict(zip(("x", "x_val", "x_test"), means, strict=True))
    )


def mnist_available() -> bool:
    """Whether `mnist()` finds its files in the cache or can download them.

    Raises:
        DataDamaged: as `mnist()`; tests that skip without MNIST must not skip then.
    """
    try:
        for name in MNIST_MD5:
            _mnist_file(name)
    except DataDamaged:
        raise
    except DataUnavailable:
        return False
    return True


def _mnist_file(name: str) -> Path:
    root = os.environ.get("OPTCORE_DATA")
    folder = (Path(root).expanduser() if root else Path(pooch.os_cache("optcore"))) / "mnist"
    # A page must not print the path of the machine that built it.
    shown = "$OPTCORE_DATA/mnist" if root else "the cache folder optcore/mnist"
    there = f"MNIST's file {name} in {shown}"
    missing = f"MNIST's file {name} is not in {shown}"
    file, md5 = folder / name, MNIST_MD5[name]
    # pooch would replace a file whose checksum is wrong, so it is asked for missing files only.
    try:
        found = pooch.file_hash(file, alg="md5")
    except FileNotFoundError:
        found = None
    except OSError as error:  # a folder of that name, no permission
        raise DataDamaged(
            f"{there} cannot be read ({type(error).__name__}): put the original there, readable."
        ) from error
    if found == md5:
        return file
    if found:
        raise DataDamaged(
            f"{there} is damaged or is not the original .gz (its MD5 is {found}, not {md5}): "
            "delete it and connect once, or put the original there."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise DataUnavailable(
            f"{missing}, where nothing can be written ({type(error).__name__}): set OPTCORE_DATA "
            "to a folder of your own and connect once, or put the four original .gz files there."
        ) from error
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=DOWNLOAD_TIMEOUT_S)
    reasons = []
    for mirror in MIRRORS:
        try:
            pooch.retrieve(
                mirror + name,
                known_hash=f"md5:{md5}",
                fname=name,
                path=folder,
                downloader=downloader,
            )
            return file
        # requests' errors are OSErrors; pooch raises ValueError on a wrong checksum.
        except (OSError, ValueError) as error:
            wrong = isinstance(error, ValueError)
            reasons.append(f"{mirror}: {'wrong MD5' if wrong else type(error).__name__}")
    raise DataUnavailable(
        f"{missing} and could not be downloaded ({'; '.join(reasons)}): connect once, or put the "
        "four original .gz files there."
    )


def _read_idx(file: Path) -> np.ndarray:
    raw = gzip.decompress(file.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)

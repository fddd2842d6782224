"""MNIST, downloaded once and verified; scikit-learn's embedded digits; the device to compute on."""

from __future__ import annotations

import gzip
import math
import os
import warnings
from pathlib import Path
from tempfile import TemporaryFile
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


class DataDamaged(RuntimeError):
    """A data set's file is there, but it is not the original, or cannot be read."""


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
    its MD5. A file that is there is never changed or removed, damaged or not.
    Source: LeCun, Bottou, Bengio and Haffner (1998), doi:10.1109/5.726791.

    Raises:
        DataUnavailable: a file is not in the cache and no mirror delivers it, or it cannot be
            written there.
        DataDamaged: a file is there, but its MD5 is another (truncated, decompressed, a network's
            login page), or it cannot be read (not permitted, a folder, a broken link).
    """
    x, y, x_test, y_test = (_read_idx(file) for file in _mnist_files())
    # In place: a second copy of the images would be another 190 MB.
    x, x_test = (torch.tensor(a).flatten(1).float().div_(255) for a in (x, x_test))
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
    """`mnist()`, or `digits()` where MNIST cannot be had; then it says so.

    Raises:
        DataDamaged: MNIST is there and damaged, which digits would only hide.
    """
    try:
        return mnist()
    except DataUnavailable:
        print(
            "MNIST is not here and could not be downloaded. This page runs on scikit-learn's "
            "digits instead: its numbers differ."
        )
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
        DataDamaged: as `mnist()`.
    """
    try:
        _mnist_files()
    except DataUnavailable:
        return False
    return True


def _mnist_files() -> list[Path]:
    folder = Path(os.environ.get("OPTCORE_DATA") or pooch.os_cache("optcore")).expanduser()
    files = [folder / "mnist" / name for name in MNIST_MD5]
    missing = [file for file in files if not _is_there(file)]
    for file in missing:
        _download(file)
    return files


def _is_there(file: Path) -> bool:
    expected = MNIST_MD5[file.name]
    try:
        found = pooch.file_hash(file, alg="md5")
    except OSError as error:
        # A link that leads nowhere is there: a download would replace it.
        if isinstance(error, FileNotFoundError) and not file.is_symlink():
            return False
        fault = f"cannot be read ({error.strerror})"
    else:
        if found == expected:
            return True
        fault = f"is damaged (its MD5 checksum is {found}, the original's {expected})"
    raise DataDamaged(
        f"MNIST's file {file} {fault}: move it away and it will be downloaded again, or put the "
        "original in its place."
    )


def _download(file: Path) -> None:
    missing = f"MNIST's file {file.name} is not in {file.parent}"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise DataUnavailable(
            f"{missing}, which cannot be written to ({error.strerror}): put the four original .gz "
            "files there, or set OPTCORE_DATA to a folder that can."
        ) from error
    downloader = pooch.HTTPDownloader(progressbar=True, timeout=DOWNLOAD_TIMEOUT_S)
    reasons = []
    for mirror in MIRRORS:
        try:
            pooch.retrieve(
                mirror + file.name,
                known_hash=f"md5:{MNIST_MD5[file.name]}",
                fname=file.name,
                path=file.parent,
                downloader=downloader,
            )
            return
        except ValueError:  # pooch's answer to a wrong checksum
            reasons.append(f"{mirror} delivers another file")
        except OSError as error:  # requests' errors are OSErrors
            reasons.append(f"{mirror}: {error.strerror or type(error).__name__}")
    raise DataUnavailable(
        f"{missing} and could not be downloaded ({'; '.join(reasons)}): connect once, or put the "
        "four original .gz files there."
    )


def _read_idx(file: Path) -> np.ndarray:
    raw = gzip.decompress(file.read_bytes())
    dimensions = raw[3]
    shape = np.frombuffer(raw, ">i4", dimensions, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * dimensions).reshape(shape)

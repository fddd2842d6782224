# @title Install optcore, the package of this book
# It comes from the commit that this notebook was made from. The machine's torch and numpy stay as
# they are, and where this very optcore is installed already nothing happens.
import importlib
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

ADDRESS, COMMIT = "@ADDRESS@", "@COMMIT@"
DEPENDENCIES = "@DEPENDENCIES@"


def find(package):
    try:
        return distribution(package)
    except PackageNotFoundError:
        return None


def install(*packages):
    found = [package for name in ("torch", "numpy") if (package := find(name))]
    kept = Path(tempfile.mkdtemp(), "kept.txt")
    kept.write_text("\n".join(f"{package.name}=={package.version}" for package in found))
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    command = [*pip, "--root-user-action=ignore", "-c", str(kept), *packages]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        raise RuntimeError(f"{' '.join(packages)} could not be installed.\n{done.stderr}")
    importlib.invalidate_caches()


package = find("optcore")
origin = package and package.read_text("direct_url.json") or ""
if COMMIT not in origin and "editable" not in origin:  # an editable one is its author's
    install("--no-deps", "--force-reinstall", f"{ADDRESS}@{COMMIT}")
if missing := [bound for name, bound in DEPENDENCIES.items() if not find(name)]:
    install(*missing)

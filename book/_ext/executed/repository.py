"""The launch and repository buttons, if the book knows where it is published."""

from __future__ import annotations

import os
import re
import subprocess

from sphinx.application import Sphinx
from sphinx.config import Config

# https://host/owner/name, git@host:owner/name and ssh://git@host/owner/name; a user name or a
# token in front of the host is not part of the public address.
ADDRESS = re.compile(
    r"(?:https://|ssh://|(?=git@))(?:[^@/]+@)?(?P<host>[\w.-]*git(?:hub|lab)[\w.-]*)(?::\d+)?[:/]"
    r"(?P<path>[\w.-]+/[\w.-]+?)(?:\.git)?/?"
)


def set_buttons(app: Sphinx, config: Config) -> None:
    """Point the buttons at the repository, or drop them; Colab opens only GitHub."""
    options = config.html_theme_options
    if url := repository_url(app.srcdir):
        options["repository_url"] = url
        options["use_repository_button"] = True
    if not url.startswith("https://github.com/"):
        options.pop("launch_buttons", None)


def repository_url(folder: str | os.PathLike) -> str:
    """The book's public address, or an empty string."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        name = f"https://github.com/{name}"
    return public_address(os.environ.get("BOOK_REPOSITORY") or name or _origin(folder))


def public_address(remote: str) -> str:
    """A remote of GitHub or GitLab as an https address; an empty string for any other."""
    match = ADDRESS.fullmatch(remote)
    return f"https://{match['host']}/{match['path']}" if match else ""


def _origin(folder: str | os.PathLike) -> str:
    command = ["git", "-C", os.fspath(folder), "config", "--get", "remote.origin.url"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""  # no git, as in a downloaded archive

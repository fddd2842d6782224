"""Where the book is published: its repository, its site, and the buttons that lead there.

Nothing here knows an address: it is that of the repository in which the book is built.
"""

from __future__ import annotations

import os
import re
import subprocess

from sphinx.application import Sphinx
from sphinx.config import Config

# The branch that serves the site. Beside each chapter's page lies the notebook that Colab opens,
# which tools/publish.py has written.
PAGES_BRANCH = "gh-pages"

# https://host/owner/name, git@host:owner/name and ssh://git@host/owner/name; a user name or a
# token in front of the host is not part of the public address.
ADDRESS = re.compile(
    r"(?:https://|ssh://|(?=git@))(?:[^@/]+@)?(?P<host>[\w.-]*git(?:hub|lab)[\w.-]*)(?::\d+)?[:/]"
    r"(?P<path>[\w.-]+/[\w.-]+?)(?:\.git)?/?"
)
GITHUB = "https://github.com/"


def set_buttons(app: Sphinx, config: Config) -> None:
    """Point the buttons at the repository, or drop them; Colab opens only GitHub."""
    options = config.html_theme_options
    if url := repository_url(app.srcdir):
        options["repository_url"] = url
        options["repository_branch"] = PAGES_BRANCH
        options["use_repository_button"] = True
    if not url.startswith(GITHUB):
        options.pop("launch_buttons", None)


def repository_url(folder: str | os.PathLike) -> str:
    """The book's public address, or an empty string."""
    return public_address(_remote(folder))


def install_address(folder: str | os.PathLike) -> str:
    """What pip installs the repository from, without a commit; an empty string if nobody can.

    A `BOOK_REPOSITORY` that begins with `git+` is taken as it is: a copy on this machine, say.
    """
    if (remote := _remote(folder)).startswith("git+"):
        return remote
    return f"git+{url}" if (url := public_address(remote)) else ""


def site_url(folder: str | os.PathLike) -> str:
    """The address of the site, with a slash at its end, or an empty string.

    It is `BOOK_SITE`, else where GitHub serves the pages of a repository.
    """
    if given := os.environ.get("BOOK_SITE"):
        return given.rstrip("/") + "/"
    url = repository_url(folder)
    if not url.startswith(GITHUB):
        return ""
    owner, name = url.removeprefix(GITHUB).split("/")
    host = f"{owner.lower()}.github.io"
    return f"https://{host}/" if name.lower() == host else f"https://{host}/{name}/"


def colab_address(config: Config, docname: str) -> str:
    """Where Colab opens the published notebook of a page; an empty string if it cannot."""
    options = config.html_theme_options
    colab = options.get("launch_buttons", {}).get("colab_url")
    url = options.get("repository_url", "")
    if not colab or not url.startswith(GITHUB):
        return ""
    return f"{colab}/github/{url.removeprefix(GITHUB)}/blob/{PAGES_BRANCH}/{docname}.ipynb"


def public_address(remote: str) -> str:
    """A remote of GitHub or GitLab as an https address; an empty string for any other."""
    match = ADDRESS.fullmatch(remote)
    return f"https://{match['host']}/{match['path']}" if match else ""


def git(folder: str | os.PathLike, *arguments: str) -> str:
    """What git says, or an empty string."""
    command = ["git", "-C", os.fspath(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""  # no git, as in a downloaded archive


def _remote(folder: str | os.PathLike) -> str:
    if given := os.environ.get("BOOK_REPOSITORY"):
        return given
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return f"{os.environ.get('GITHUB_SERVER_URL', GITHUB.rstrip('/'))}/{name}"
    return git(folder, "config", "--get", "remote.origin.url")

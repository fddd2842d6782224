"""Every symbol of a chapter's formulas is explained on the page *Notation*."""

import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parents[1] / "book"
# The section of *Notation* for each chapter begins with the chapter's number.
CHAPTERS = {
    re.match(r"# (\d+)", path.read_text(encoding="utf-8"))[1]: path
    for path in sorted(BOOK.glob("text/*.md"))
    if re.match(r"# \d+ ", path.read_text(encoding="utf-8"))
}
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$\n]+)\$|\\begin\{align\*\}(.+?)\\end\{align\*\}", re.DOTALL)
GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|kappa|lambda|mu|nu|xi|pi|rho|sigma|tau|"
    "phi|varphi|chi|psi|omega|Gamma|Delta|Theta|Lambda|Pi|Sigma|Phi|Psi|Omega"
)
# Letters that are mathematics and not symbols: d of dx, e, i and j as indices, O and o of an order.
PLAIN = set("deijOo") | {r"\pi", r"\Pi"}


def symbols(text: str) -> set[str]:
    """The letters, Latin and Greek, that stand in the formulas of a Markdown text."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    found = set()
    for match in MATH.finditer(text):
        formula = next(filter(None, match.groups()))
        formula = re.sub(
            r"\\(text|operatorname|mathrm|mathbb|tag|texttt|begin|end)\*?\{[^}]*\}", " ", formula
        )
        found |= {rf"\{name}" for name in re.findall(rf"\\({GREEK})(?![A-Za-z])", formula)}
        found |= set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", " ", formula)))
    return found


def explained(notation: str, chapter: str) -> set[str]:
    """The letters of the tables for all chapters and for this one."""
    sections = re.split(r"^## ", notation, flags=re.MULTILINE)
    ours = [s for s in sections if s.startswith("In all") or s.startswith(f"{chapter} ")]
    rows = [line for section in ours for line in section.splitlines() if line.startswith("|")]
    return symbols("\n".join(rows))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_each_symbol_of_a_chapter_is_explained(chapter):
    notation = (BOOK / "notation.md").read_text(encoding="utf-8")
    used = symbols(CHAPTERS[chapter].read_text(encoding="utf-8"))
    assert used - explained(notation, chapter) - PLAIN == set()


def test_a_symbol_that_is_not_explained_is_found():
    notation = (
        "## In all chapters\n\n| $w_t$ | iterate |\n\n## 3 Momentum\n\n| $\\beta$ | momentum |\n"
    )
    text = "Then $w_t = \\beta\\,v_t$, and $$ \\text{not } x = \\eta \\tag{3.1} $$\n"
    text += "```python\nq = '$y$'\n```\n"
    assert symbols(text) == {"w", "t", r"\beta", "v", "x", r"\eta"}
    assert symbols(text) - explained(notation, "3") == {"v", "x", r"\eta"}
    assert r"\beta" not in explained(notation, "4")

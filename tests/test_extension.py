"""The Sphinx extension, on books of a few lines."""

import io
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace, patch_docutils

EXTENSION = Path(__file__).resolve().parents[1] / "book" / "_ext"
LEDGER = tomllib.loads((EXTENSION / "ledger.toml").read_text(encoding="utf-8"))


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build pages, given as text or as a notebook, and return their HTML and the warnings."""
    monkeypatch.setattr(sys, "path", [str(EXTENSION), *sys.path])
    for name in ("BOOK_REPOSITORY", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name, raising=False)

    def run(**pages):
        source = tmp_path / "source"
        source.mkdir()
        for name, page in pages.items():
            (source / name).parent.mkdir(exist_ok=True)
            if isinstance(page, str):
                (source / f"{name}.md").write_text(page, encoding="utf-8")
            else:
                nbformat.write(page, source / f"{name}.ipynb")
        toctree = "# Index\n\n```{toctree}\n" + "\n".join(pages) + "\n```\n"
        (source / "index.md").write_text(toctree, encoding="utf-8")
        config = {
            "extensions": ["myst_nb", "executed"],
            "html_theme": "basic",
            "myst_dmath_double_inline": True,
            "myst_enable_extensions": ["amsmath", "dollarmath"],
            "nb_execution_mode": "off",
        }
        warnings = io.StringIO()
        with patch_docutils(), docutils_namespace():
            app = Sphinx(
                source,
                None,
                tmp_path / "html",
                tmp_path / "doctrees",
                "html",
                confoverrides=config,
                status=None,
                warning=warnings,
            )
            app.build()
        html = {
            name: BeautifulSoup((tmp_path / "html" / f"{name}.html").read_text(), "html.parser")
            for name in pages
        }
        return html, warnings.getvalue()

    return run


def chapter(*claims):
    """A notebook whose cells have checked these claims."""
    notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    notebook.cells.append(nbformat.v4.new_markdown_cell("# A chapter"))
    for id in claims:
        claim = {"id": id, "sentence": "σ_min by (3.1)", "rounded": "0.12", "bound": "≤ 1e-12"}
        output = nbformat.v4.new_output(
            "display_data", data={"text/plain": f"✓ {id}"}, metadata={"claim": claim}
        )
        notebook.cells.append(nbformat.v4.new_code_cell("check()", outputs=[output]))
    return notebook


MOMENTUM = LEDGER["momentum"]["claims"]


@pytest.mark.parametrize(
    ("lead", "kind", "id", "title"),
    [
        ("Note.", "note", None, "Note"),
        ("Warning.", "warning", None, "Warning"),
        ("Theorem 3.1 (Polyak).", "theorem", "theorem-3-1", "Theorem 3.1 (Polyak)"),
        ("Exercise 3.2.", "exercise", "exercise-3-2", "Exercise 3.2"),
        ("Proof.", "proof", None, "Proof"),
    ],
)
def test_a_quote_with_a_lead_becomes_a_box(build, lead, kind, id, title):
    html, warnings = build(page=f"# A page\n\n> **{lead}** One.\n>\n> Two $x$.\n")
    box = html["page"].select_one(f"div.admonition.{kind}")
    assert box.get("id") == id
    assert [p.get_text() for p in box.select("p")] == [title, "One.", r"Two \(x\)."]
    assert not html["page"].find("blockquote")
    assert not warnings


def test_a_box_and_an_equation_can_be_linked_by_their_anchor(build):
    html, warnings = build(
        one="# One\n\n> **Exercise 3.2.** Show that\n> $$ a = b \\tag{3.1} $$\n",
        two="# Two\n\n[It](one.md#exercise-3-2), [that](one.md#eq-3-1), (3.1).\n",
    )
    assert html["one"].select_one("#exercise-3-2 div.math#eq-3-1")
    links = [a["href"] for a in html["two"].select("p a.reference")]
    assert links == ["one.html#exercise-3-2", "one.html#eq-3-1", "one.html#eq-3-1"]
    assert not warnings


def test_other_quotes_stay_quotes(build):
    html, _ = build(page="# A page\n\n> Said he.\n\n> **Bold** words.\n\n> **Notebooks.** No.\n")
    assert len(html["page"].find_all("blockquote")) == 3
    assert not html["page"].select(".admonition")


def test_equations_are_linked_across_pages_but_not_in_code(build):
    html, warnings = build(
        one="# One\n\n$$ a = b \\tag{3.1} $$\n\n\\begin{align*}\na &= b \\tag{3.2} \\\\\n"
        "c &= d \\tag{3.10}\n\\end{align*}\n",
        two="# Two\n\nBy (3.1), (3.10) and `(3.2)`; momentum (0.9) is a number.\n",
    )
    assert all(html["one"].find(id=id) for id in ("eq-3-1", "eq-3-2", "eq-3-10"))
    links = [(a.get_text(), a["href"]) for a in html["two"].select("p a.reference")]
    assert links == [("(3.1)", "one.html#eq-3-1"), ("(3.10)", "one.html#eq-3-10")]
    assert not warnings


@pytest.mark.parametrize(
    ("pages", "warning"),
    [
        ({"one": "# One\n\nBy (3.4).\n"}, "there is no equation (3.4)"),
        ({"one": "# One\n\nBy claim 9.9.\n"}, "there is no claim 9.9"),
        (
            {"one": "# 1\n\n$$ a \\tag{3.1} $$\n", "two": "# 2\n\n$$ b \\tag{3.1} $$\n"},
            "equation tag (3.1) is used more than once",
        ),
        ({"one": "# One\n\n$$ a \\\\ b \\tag{3.1} $$\n"}, r"need \begin{align*}"),
        ({"one": "# One\n\n![](a.png)\n"}, "no alternative text"),
        ({"one": "# One\n\n![a.png](a.png)\n"}, "no alternative text"),
        ({"momentum": chapter("3.1")}, "there is no equation (3.1)"),
        ({"momentum": chapter(*MOMENTUM[:-2])}, f"not checked: {', '.join(MOMENTUM[-2:])}"),
        ({"momentum": chapter(*MOMENTUM, "3.99")}, "claim 3.99 is not in the ledger"),
        ({"momentum": chapter(*MOMENTUM, "2.1")}, "claim 2.1 belongs to the chapter robbins_monro"),
        ({"appendix": chapter("2.1")}, "claim 2.1 belongs to the chapter robbins_monro"),
        ({"appendix": chapter("3.99")}, "claim 3.99 is not in the ledger"),
    ],
)
def test_what_is_wrong_is_a_warning(build, pages, warning):
    _, warnings = build(**pages)
    assert warning in warnings


def test_no_other_page_has_a_chapters_name(build):
    pages = {"momentum": chapter(*MOMENTUM), "package/momentum": "# A module"}
    assert "two pages have a chapter's name, momentum" in build(**pages)[1]


def test_claims_have_anchors_links_and_a_table(build):
    html, warnings = build(
        table="# Claims\n\n```{verified-claims}\n```\n\nSee claim 3.2.\n\n$$ a \\tag{3.1} $$\n",
        momentum=chapter(*MOMENTUM, "3.2"),
    )
    assert not warnings
    lines = html["momentum"].select(".claims > .claim-line")
    ids = [f"claim-3-{n}" for n in range(1, len(MOMENTUM) + 1)] + ["claim-3-2-2"]
    assert [line["id"] for line in lines] == ids
    text = " ".join(lines[0].get_text().split())
    assert text == "✓ Claim 3.1 σmin by (3.1) measured 0.12 bound ≤ 10⁻¹²"
    assert lines[0].sub.get_text() == "min"

    rows = [
        [cell.get_text().split(": ")[-1] for cell in row.select("td")]
        for row in html["table"].select("tbody tr")
    ]
    assert [row[0] for row in rows] == ["3.1", "3.2", "3.2", *MOMENTUM[2:]]
    assert rows[0][1:] == ["σmin by (3.1)", "0.12", "≤ 10⁻¹²"]
    assert html["table"].td.find_next("sub").get_text() == "min"
    assert f"{len(MOMENTUM)} claims in {len(MOMENTUM) + 1} checks" in html["table"].get_text()
    links = {a["href"] for a in html["table"].select("td:first-child a")}
    assert links == {f"momentum.html#{id}" for id in ids}
    assert html["table"].select_one("td:nth-child(2) a")["href"] == "#eq-3-1"
    assert lines[0].find("a")["href"] == "table.html#eq-3-1"
    assert html["table"].find("a", string="claim 3.2")["href"] == "momentum.html#claim-3-2"


def test_claims_of_one_cell_are_rows_of_one_box(build):
    page = chapter("3.1", "3.2", "3.2", "3.3", *MOMENTUM[3:])
    first, second, third, fourth = page.cells[1:5]
    text = nbformat.v4.new_output("display_data", data={"text/plain": "A picture"})
    first.outputs += second.outputs + third.outputs + [text] + fourth.outputs
    del page.cells[2:5]
    html, warnings = build(momentum=page, eq="# 1\n\n$$ a \\tag{3.1} $$\n")
    assert not warnings
    boxes = html["momentum"].select(".claims")
    names = [[" ".join(p.get_text().split()) for p in b.select(".claim-name")] for b in boxes]
    assert names[:2] == [["✓ Claim 3.1", "✓ Claim 3.2", "✓"], ["✓ Claim 3.3"]]
    assert len(boxes) == 2 + len(MOMENTUM[3:])


def test_a_claim_may_stand_in_an_appendix(build):
    html, warnings = build(
        momentum=chapter(*(id for id in MOMENTUM if id != "3.7")),
        conventions=chapter("3.7"),
        table="# Claims\n\n```{verified-claims}\n```\n\nBy claim 3.7.\n\n$$ a \\tag{3.1} $$\n",
    )
    assert not warnings
    rows = {row.a.get_text(): row for row in html["table"].select("tbody tr")}
    assert list(rows) == MOMENTUM
    assert rows["3.7"].a["href"] == "conventions.html#claim-3-7"
    assert rows["3.7"].find("a", string="A chapter")["href"] == "conventions.html"
    assert html["table"].find("a", string="claim 3.7")["href"] == "conventions.html#claim-3-7"


def test_the_front_page_shows_a_figure_a_claim_and_where_to_begin(build):
    page = chapter(*MOMENTUM)
    page.cells[0].source = "# 3 Momentum\n\n$$ a \\tag{3.1} $$\n\n" + "A sentence about it. " * 12
    data = {"text/plain": "", "text/html": '<div class="explore">Move me</div>'}
    output = nbformat.v4.new_output("display_data", data=data)
    page.cells.append(nbformat.v4.new_code_cell("explore()", outputs=[output]))
    front = "# Front\n\n"
    for excerpt in ("begin} momentum", "figure-of} momentum", "claim-line} 3.2"):
        front += f"```{{{excerpt}\n```\n\n"
    html, warnings = build(front=front, momentum=page)
    assert not warnings
    front = html["front"]
    assert front.select_one("p.begin a")["href"] == "momentum.html"
    assert front.select_one("p.begin").get_text() == "Begin with chapter 3: Momentum"
    assert front.select_one(".explore").get_text() == "Move me"
    line = front.select_one(".claims > .claim-line")
    assert line.a["href"] == "momentum.html#claim-3-2" and not line.get("id")
    description = html["momentum"].find("meta", attrs={"name": "description"})["content"]
    assert description.startswith("A sentence about it. A") and 150 < len(description) <= 203
    title = html["momentum"].find("meta", attrs={"property": "og:title"})
    assert title["content"] == "3 Momentum"
    assert not html["momentum"].find("meta", attrs={"property": "og:image"})


@pytest.mark.parametrize(
    "text",
    [
        "{} Now let $x$ be a number. It is read as the others are, and this is not.",
        "Let $x$ be one of the numbers that nobody can read in a preview.\n\n{}",
        "> The quote that stands before, which may be as long as it likes to be.\n\n{}",
        "Short.\n\n{}",
    ],
)
def test_a_page_is_described_by_its_first_sentences_before_a_formula(build, text):
    description = "Of a valley, a ball, and the number of steps that it takes to get there."
    html, _ = build(page="# A page\n\n" + text.format(description))
    assert html["page"].find("meta", attrs={"name": "description"})["content"] == description


@pytest.mark.parametrize("excerpt", ["figure-of} momentum", "claim-line} 3.2", "begin} momentum"])
def test_an_excerpt_of_nothing_is_a_warning(build, excerpt):
    _, warnings = build(front=f"# Front\n\n```{{{excerpt}\n```\n")
    assert "there is no " + excerpt.replace("}", "") in warnings


def test_the_colab_address_is_that_of_the_published_notebook(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXTENSION), *sys.path])
    from executed.repository import colab_address

    class Config:
        html_theme_options = {
            "repository_url": "https://github.com/owner/name",
            "launch_buttons": {"colab_url": "https://colab"},
        }

    address = colab_address(Config, "book/muon")
    assert address == "https://colab/github/owner/name/blob/gh-pages/book/muon.ipynb"
    Config.html_theme_options = {"repository_url": "https://gitlab.com/owner/name"}
    assert colab_address(Config, "book/muon") == ""


SVG = """<?xml version="1.0"?>
<svg width="10pt" viewBox="0 0 10 10"><metadata>who</metadata><g id="axes_1">
<path id="m1" style="fill: #ffffff; stroke: #000000"/><use xlink:href="#m1" style="fill: #2868e0"/>
<text style="font: 10px 'DejaVu Sans', sans-serif; fill: #595959">t</text></g></svg>"""


def hidden(source, picture):
    """A cell whose code is hidden; it draws, or sets up."""
    data = {"text/plain": "picture", "image/svg+xml": SVG}
    outputs = [nbformat.v4.new_output("display_data", data=data)] if picture else []
    metadata = {"tags": ["hide-input"], "mystnb": {"image": {"alt": "A <line>"}}}
    return nbformat.v4.new_code_cell(source, outputs=outputs, metadata=metadata)


def figures(*cells):
    notebook = nbformat.v4.new_notebook(metadata={"language_info": {"name": "python"}})
    texts = [nbformat.v4.new_markdown_cell(c) if isinstance(c, str) else c for c in cells]
    notebook.cells += texts
    return notebook


def test_the_picture_then_its_caption_then_all_its_code(build):
    html, warnings = build(
        one=figures(
            "# One",
            hidden("a = 1", False),
            hidden("b = 2", False),
            hidden("plot()", True),
            "**Figure 3.2.** It goes *up*.\n\nSee Figure 3.2.",
            hidden("other()", True),
        ),
        two="# Two\n\nBy Figure 3.2.\n",
    )
    assert not warnings
    first, second = html["one"].select("div.cell")
    figure, fold = first.find_all(["figure", "details"])
    assert figure["id"] == "figure-3-2" and figure.svg
    assert figure.select_one(".caption-text").get_text() == "Figure 3.2. It goes up."
    assert [pre.get_text().strip() for pre in fold.select("pre")] == ["a = 1", "b = 2", "plot()"]
    assert fold.sourceline > figure.sourceline
    assert [pre.get_text().strip() for pre in second.select("details pre")] == ["other()"]
    assert html["two"].find("a", string="Figure 3.2")["href"] == "one.html#figure-3-2"
    assert html["one"].find("a", string="Figure 3.2")["href"] == "#figure-3-2"


def test_the_table_of_claims_names_the_figure_beside_each(build):
    def figure(number):
        return [hidden("plot()", True), nbformat.v4.new_markdown_cell(f"**Figure {number}.** Up.")]

    page, text = chapter(*MOMENTUM), nbformat.v4.new_markdown_cell
    title, first, second, third, fourth, *others = page.cells
    page.cells = [title, text("$$ a \\tag{3.1} $$\n\n## One"), first, *figure("3.1")]
    page.cells += [second, *figure("3.2"), third, text("More."), text("More."), *figure("3.3")]
    page.cells += [text("## Two"), fourth, *others, text("## Three"), *figure("3.4")]
    html, warnings = build(momentum=page, table="# Claims\n\n```{verified-claims}\n```\n")
    assert not warnings
    links = [[a["href"] for a in row.select("a")] for row in html["table"].select("tbody tr")]
    figures = [[href for href in row if "figure" in href] for row in links]
    # As near to two, the one below; nearer to the one above, that; none in its section, none.
    beside = [[f"momentum.html#figure-3-{n}"] for n in (1, 2, 2)]
    assert figures == beside + [[]] * (len(MOMENTUM) - 3)
    cell = html["table"].select("tbody td")[1]
    assert cell.get_text().endswith("σmin by (3.1) (Figure 3.1)")


@pytest.mark.parametrize(
    ("cells", "warning"),
    [
        (["# One\n\nBy Figure 3.2."], "there is no figure 3.2"),
        (["# One\n\n**Figure 3.2.** Of what?"], "caption of figure 3.2 follows no output"),
        (
            ["# One", *[hidden("plot()", True), "**Figure 3.2.** Up."] * 2],
            "figure 3.2 is used more than once",
        ),
    ],
)
def test_what_is_wrong_with_figures_is_a_warning(build, cells, warning):
    assert warning in build(one=figures(*cells))[1]


def test_a_picture_takes_the_colours_of_the_page(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXTENSION), *sys.path])
    from executed.figures import in_page_colors

    page = in_page_colors(SVG, "A <line>")
    soup = BeautifulSoup(page, "html.parser")
    assert page.startswith("<svg ") and "width" not in page.split(">")[0] and "who" not in page
    assert soup.svg["aria-label"] == "A <line>"
    background = "var(--pst-color-background, white)"
    assert soup.path["style"] == f"fill: {background}; stroke: currentColor"
    assert soup.use["style"] == "fill: #2868e0"
    assert f"color-mix(in srgb, currentColor 65%, {background})" in soup.find("text")["style"]
    assert "10px system-ui, sans-serif;" in soup.find("text")["style"]
    assert soup.use["xlink:href"] == f"#{soup.path['id']}" and soup.path["id"] != "m1"
    assert not soup.g.get("id")


def test_a_formula_in_a_picture_is_drawn(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(EXTENSION), *sys.path])
    from executed.figures import in_page_colors

    style = "font-size: 5px; font-family: 'STIXSizeOneSym'; fill: #000000"
    glyph = f'<tspan x="3" y="-1" style="{style}">√</tspan>'
    plain = "<text style=\"font-size: 8px; font-family: 'DejaVu Sans', serif\">a</text>"
    page = in_page_colors(SVG.replace("</g></svg>", f"<text>{glyph}</text>{plain}</g></svg>"), "A")
    soup = BeautifulSoup(page, "html.parser")
    path = soup.find_all("path")[-1]
    assert path["transform"].startswith("translate(3 -1) scale(0.005") and path["d"][0] == "M"
    assert path["style"] == "fill: currentColor"
    assert [text["style"] for text in soup.find_all("text")][1:] == [
        "font-size: 8px; font-family: system-ui, sans-serif"
    ]


def test_thousands_stay_on_one_line(build):
    html, _ = build(page="# 1\n\n40 000 of 1 200 300, in 2020 300, `1 000`, 0.12 345, 5 000.\n")
    text = html["page"].p.get_text()
    assert text == "40\u202f000 of 1\u202f200\u202f300, in 2020 300, 1 000, 0.12 345, 5\u202f000."


def test_a_table_of_text_is_stacked_on_a_phone(build):
    long = "words " * 9
    html, _ = build(
        text=f"# 1\n\n| a | b | c |\n|---|---|---|\n| 1 | {long} | 3 |\n",
        numbers="# 1\n\n| a | b | c |\n|---|---|---|\n| 1 | 2 | 3 |\n",
    )
    assert html["text"].select_one("table.stacked td:nth-child(3)").get_text() == "c: 3"
    assert not html["numbers"].select_one("table.stacked")


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        ("https://github.com/owner/name", "https://github.com/owner/name"),
        ("https://token@github.com/owner/name.git", "https://github.com/owner/name"),
        ("git@gitlab.com:owner/na.me.git", "https://gitlab.com/owner/na.me"),
        ("ssh://git@github.com/owner/name.git", "https://github.com/owner/name"),
        ("https://example.org/owner/name", ""),
        ("../a/folder", ""),
        ("", ""),
    ],
)
def test_the_public_address_of_a_remote(monkeypatch, remote, address):
    monkeypatch.setattr(sys, "path", [str(EXTENSION), *sys.path])
    from executed.repository import public_address

    assert public_address(remote) == address


@pytest.mark.parametrize(
    ("markdown", "rst"),
    [
        ("`a` and `B`s", r"``a`` and ``B``\ s"),
        ("of $x_1$", "of :math:`x_1`"),
        ("the best w* of (n, *shape)", r"the best w\* of (n, \*shape)"),
        ("*so* and **so**, ``a*b``", "*so* and **so**, ``a*b``"),
        ("  $$a\n    * b$$", "\n  .. math::\n\n      a\n          * b\n"),
    ],
)
def test_markdown_docstrings(monkeypatch, markdown, rst):
    monkeypatch.setattr(sys, "path", [str(EXTENSION), *sys.path])
    from executed.docstrings import from_markdown

    assert from_markdown(markdown) == rst


@pytest.mark.parametrize("text", ["of $x_1\n+ x_2$", "\\beta of \beta"])
def test_a_broken_formula_of_a_docstring_is_a_warning(monkeypatch, text):
    monkeypatch.setattr(sys, "path", [str(EXTENSION), *sys.path])
    from executed import docstrings

    said = []
    monkeypatch.setattr(docstrings.logger, "warning", lambda *words: said.append(words))
    docstrings.process(None, "function", "f", None, None, ["`$HOME` and $x$"])
    assert not said
    docstrings.process(None, "function", "f", None, None, text.split("\n"))
    assert len(said) == 1

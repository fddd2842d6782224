"""The built site: what a reader would stumble over. `make test` builds it first."""

import gzip
import re
import tomllib
from copy import copy
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
LEDGER = tomllib.loads((ROOT / "book/_ext/ledger.toml").read_text(encoding="utf-8"))
CHAPTERS = sorted(path.stem for path in ROOT.glob("book/*.ipynb"))
SOURCES = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("book/**/*.*")}
HTML = {path: BeautifulSoup(path.read_bytes(), "html.parser") for path in SITE.rglob("*.html")}
# The theme ships two templates among its files; they are not pages.
PAGES = {path: soup for path, soup in HTML.items() if "_static" not in path.parts}
WEIGHT = 1_500_000
# What loads something, by attribute. A link with another `rel` only names it.
LOADED = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
STYLES = ("stylesheet", "icon", "preload", "modulepreload", "shortcut icon")
CSS_URL = re.compile(r"""url\(\s*["']?(?!data:|#)([^"')]+)""")
# MathJax's fonts: those of every formula, and those of an alphabet that a page may use.
FONTS = {
    r"": ["Main-Regular", "Math-Italic", "AMS-Regular", "Size*", "Zero"],
    r"\\(mathbf|textbf|bold)": ["Main-Bold", "Math-BoldItalic"],
    r"\\(mathit|textit|emph)": ["Main-Italic"],
    r"\\mathcal": ["Calligraphic-Regular"],
    r"\\mathscr": ["Script-Regular"],
    r"\\mathfrak": ["Fraktur-Regular"],
    r"\\(mathsf|textsf)": ["SansSerif-Regular"],
    r"\\(mathtt|texttt)": ["Typewriter-Regular"],
    r"\\vec": ["Vector-Regular"],
}


def on_pages(test):
    return pytest.mark.parametrize("page", sorted(PAGES), ids=lambda p: str(p.relative_to(SITE)))(
        test
    )


def loads(soup):
    """The addresses that a page loads by itself."""
    for name, attribute in LOADED.items():
        yield from (tag[attribute] for tag in soup.find_all(name, attrs={attribute: True}))
    for link in soup.find_all("link", href=True):
        if " ".join(link.get("rel", [])) in STYLES:
            yield link["href"]
    for style in [*soup.find_all("style"), *soup.find_all(style=True)]:
        yield from CSS_URL.findall(style.get("style") or style.get_text())


def target(page, address):
    """The file that an address on a page means."""
    path = unquote(urlsplit(address).path)
    file = (page.parent / path).resolve() if path else page
    return file / "index.html" if file.is_dir() else file


def is_local(address):
    return not urlsplit(address).scheme and not address.startswith("//")


def test_the_site_is_built():
    assert {f"book/{path.stem}.html" for path in ROOT.glob("book/*.ipynb")} <= {
        path.relative_to(SITE).as_posix() for path in PAGES
    }


@on_pages
def test_internal_links_lead_somewhere(page):
    broken = []
    for link in PAGES[page].find_all("a", href=True):
        address = link["href"]
        if not is_local(address):
            continue
        file, anchor = target(page, address), unquote(urlsplit(address).fragment)
        if not file.exists():
            broken.append(address)
        elif anchor and file in HTML and anchor not in ("", "top"):
            soup = HTML[file]
            if not soup.find(id=anchor) and not soup.find(attrs={"name": anchor}):
                broken.append(address)
    assert not broken


@on_pages
def test_nothing_is_loaded_from_another_host(page):
    assert [a for a in loads(PAGES[page]) if not is_local(a) and not a.startswith("data:")] == []
    scripts = " ".join(script.get_text() for script in PAGES[page].find_all("script"))
    assert not re.search(r"""(import|fetch|src\s*=)\W*["'(]*\s*(https?:)?//""", scripts)


def test_style_sheets_load_nothing_from_another_host():
    for sheet in SITE.rglob("*.css"):
        urls = CSS_URL.findall(sheet.read_text(encoding="utf-8"))
        assert [url for url in urls if not is_local(url)] == [], sheet


@on_pages
def test_files_that_a_page_loads_exist(page):
    assert [a for a in loads(PAGES[page]) if is_local(a) and not target(page, a).exists()] == []


@on_pages
def test_images_have_a_real_alternative_text(page):
    images = [
        tag for tag in PAGES[page].find_all("img") if "logo__image" not in tag.get("class", [])
    ]
    alts = [(tag.get("alt") or "").strip() for tag in images]
    alts += [tag.get("aria-label", "") for tag in PAGES[page].select("svg.figure")]
    assert [alt for alt in alts if not alt or re.fullmatch(r"\S*\.(png|svg|jpe?g)", alt)] == []


def test_chapters_and_the_front_page_say_what_they_are():
    for name in ("index", *CHAPTERS):
        soup = HTML[SITE / f"book/{name}.html"]
        for key, value in {"name": "description", "property": "og:title"}.items():
            assert soup.find("meta", attrs={key: value})["content"], name


def test_the_front_page_has_a_figure_a_claim_and_a_way_in():
    front = HTML[SITE / "book/index.html"]
    assert front.select(".explore") and front.select(".claim-line") and front.select("p.begin a")


@on_pages
def test_no_cell_failed_or_complained(page):
    soup = PAGES[page]
    assert not soup.select(".output.traceback, .output.stderr, .system-message")
    assert "Traceback (most recent call last)" not in soup.get_text()


@on_pages
def test_no_raw_markup_is_left(page):
    article = copy(PAGES[page].find("article") or PAGES[page])
    for tag in article.select("pre, code, .math, script, style, svg, a, head"):
        tag.decompose()
    text = article.get_text()
    assert not re.search(r":::|```|\{(note|ref|eq|cite|doc|math)\}|\\tag|\\begin\{|\$\$|\]\(", text)
    assert not re.search(r"\$\S[^$]*\$", text)
    # A "(3.2)" that is not a link names no equation.
    assert not re.search(r"\([1-9]\d*\.[1-9]\d*\)", text)


@pytest.mark.parametrize("chapter", [name for name in LEDGER if name in CHAPTERS])
def test_the_claims_page_lists_the_chapters_ledger(chapter):
    section = copy(HTML[SITE / "book/claims.html"].find(id=f"chapter-{LEDGER[chapter]['number']}"))
    for title in section.select(".cell-title"):
        title.decompose()  # shown on a phone only
    rows = [
        [cell.get_text().strip() for cell in row.select("td")]
        for row in section.select(".claims-table tbody tr")
    ]
    assert {row[0] for row in rows} == set(LEDGER[chapter]["claims"])
    assert float(re.search(r"Executed in ([\d.]+) s", section.get_text())[1]) > 1
    for _, sentence, measured, bound in rows:
        assert sentence and bound
        assert re.fullmatch(r"−?(\d+(\.\d+)?( × 10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)?|10[⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", measured)


@on_pages
def test_a_page_is_light(page):
    """The page and all that it loads, compressed as a server would send it."""
    files = {page}
    queue = [target(page, a) for a in loads(PAGES[page]) if is_local(a)]
    if PAGES[page].find("script", src=re.compile("mathjax")):
        formulas = " ".join(tag.get_text() for tag in PAGES[page].select(".math"))
        for command, fonts in FONTS.items():
            for font in fonts if re.search(command, formulas) else []:
                queue += SITE.glob(
                    f"_static/mathjax/output/chtml/fonts/woff-v2/MathJax_{font}.woff"
                )
    while queue:
        file = queue.pop()
        # Where a font comes as woff2 too, no browser takes the ttf.
        superseded = file.suffix == ".ttf" and file.with_suffix(".woff2").exists()
        if file in files or superseded or not file.exists():
            continue
        files.add(file)
        if file.suffix == ".css":
            urls = CSS_URL.findall(file.read_text(encoding="utf-8"))
            queue += [target(file, url) for url in urls if is_local(url)]
    assert sum(len(gzip.compress(file.read_bytes())) for file in files) <= WEIGHT


@on_pages
def test_a_page_does_not_jump_while_it_loads(page):
    head = PAGES[page].head
    if head is None:
        return  # the root only leads to the front page
    assert [s for s in head.find_all("script") if "prefers-color-scheme" in s.get_text()]
    fonts = [target(page, link["href"]).stem for link in head.select('link[as="font"]')]
    mathjax = head.find("script", src=re.compile("mathjax"))
    assert fonts == (["MathJax_Main-Regular", "MathJax_Math-Italic"] if mathjax else [])


def test_the_site_holds_nothing_but_pages():
    extra = {"genindex", "index", "py-modindex", "search"}
    pages = {str(Path(name).with_suffix("")) for name in SOURCES}
    for page in PAGES:
        assert page.relative_to(SITE).with_suffix("").as_posix() in pages | extra, page
    copied = [path for path in (SITE / "_sources").rglob("*") if path.is_file()]
    for path in copied:
        assert path.relative_to(SITE / "_sources").as_posix() in SOURCES


@pytest.mark.parametrize(
    "text", sorted(ROOT.glob("book/assignments/text/*.md")), ids=lambda p: p.stem
)
def test_the_site_holds_no_solution(text):
    """No line of a solution is in any file, unless students are given that line elsewhere."""
    source = text.read_text(encoding="utf-8")
    solutions = re.findall(r"### BEGIN SOLUTION\n(.*?)### END SOLUTION", source, re.DOTALL)
    given = re.sub(r"### BEGIN SOLUTION\n.*?### END SOLUTION", "", source, flags=re.DOTALL)
    secret = {line.strip() for solution in solutions for line in solution.splitlines()}
    secret = {line for line in secret if len(line) > 30 and line not in given}
    assert secret
    for path in SITE.rglob(f"*{text.stem}*"):
        page = path.read_text(encoding="utf-8")
        page = HTML[path].get_text() if path in HTML else page
        assert not any(line in page for line in secret), path
    index = (SITE / "searchindex.js").read_text(encoding="utf-8")
    assert "begin solution" not in index.lower()

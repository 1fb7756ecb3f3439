"""README.md and the pages in docs: code runs and prints what they say, links lead somewhere."""

import contextlib
import inspect
import io
import pathlib
import re

import numpy as np
import pytest
from marks import slow

import tfreg

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
MAX_LINES_OF_README = 150
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"True|False|-?\d+\.?\d*(?:e[+-]?\d+)?")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
# These train models for seconds.
LONG = {ROOT / "docs" / f"{name}.md" for name in ("exact-zeros", "own-penalty", "seeing")}


def blocks_of(page):
    """Language, code and number of the first line of each block of a page."""
    text = page.read_text()
    return [
        (found.group(1), found.group(2), text.count("\n", 0, found.start(2)))
        for found in BLOCK.finditer(text)
    ]


def numbers_and_words(text):
    """The numbers and truth values in `text`, and its words with `#` in their place."""
    numbers = [float({"True": 1, "False": 0}.get(n, n)) for n in NUMBER.findall(text)]
    return numbers, NUMBER.sub("#", text).split()


def assert_prints(output, expected):
    printed, words = numbers_and_words(output)
    stated, stated_words = numbers_and_words(expected)
    assert words == stated_words
    # In the last digit the sums of another processor may differ.
    np.testing.assert_allclose(printed, stated, atol=0.011)


@pytest.mark.parametrize(
    "page", [slow(page) if page in LONG else page for page in PAGES], ids=lambda page: page.stem
)
def test_blocks_run_as_one_script_and_print_what_the_page_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(page)
    assert {language for language, _, _ in blocks} <= {"bash", "python", "text"}
    names: dict = {"__name__": "__main__"}
    for (language, code, line), (following, expected, _) in zip(blocks, [*blocks[1:], ("", "", 0)]):
        if language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as output:
                # A traceback then tells the line of the page.
                exec(compile("\n" * line + code, str(page), "exec"), names)
            assert_prints(output.getvalue(), expected if following == "text" else "")


def anchors_of(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", BLOCK.sub("", page.read_text())):
        if not target.startswith("http"):
            linked = page.parent / target if target else page
            assert linked.exists(), target
            assert not anchor or anchor in anchors_of(linked), f"{target}#{anchor}"


def test_readme_is_short_and_begins_with_its_two_commands():
    assert len(README.read_text().splitlines()) <= MAX_LINES_OF_README
    languages = [language for language, _, _ in blocks_of(README)]
    assert languages[:2] == ["bash", "bash"] and languages.count("bash") == 2


def test_readme_leads_to_every_page():
    linked = set(re.findall(r"\]\(docs/([^)#]*)\)", README.read_text()))
    assert linked == {page.name for page in PAGES if page != README}


def signature_of(penalty_class):
    """`MCP(factor, threshold)`: how the table of penalties begins a row."""
    parameters = inspect.signature(penalty_class).parameters.values()
    arguments = ["**" * (each.kind is each.VAR_KEYWORD) + each.name for each in parameters]
    return f"{penalty_class.__name__}({', '.join(arguments)})"


def test_table_of_penalties_matches_the_package():
    penalties = {name for name in tfreg.penalties.__all__ if name[0].isupper()}
    penalties -= {"Elementwise", "Penalty"}
    expected = {signature_of(getattr(tfreg, name)) for name in penalties}
    table = (ROOT / "docs" / "choosing.md").read_text()
    stated = set(re.findall(r"^\| `(\w+\([^`]*\))` \|", table, re.MULTILINE))
    assert stated == expected, (
        "The table of penalties in docs/choosing.md must have one row for each penalty, which "
        f"begins with its signature. Add rows for {sorted(expected - stated)}; remove or change "
        f"those of {sorted(stated - expected)}."
    )

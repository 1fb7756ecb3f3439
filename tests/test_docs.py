"""The pages in docs: every block of Python runs, and prints what the page says."""

import contextlib
import io
import pathlib
import re

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def blocks_of(page):
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)


def numbers(text):
    """The numbers and truth values in `text`, and the text without them."""
    pattern = r"True|False|-?\d+\.?\d*(?:e[+-]?\d+)?"
    found = [float({"True": 1, "False": 0}.get(w, w)) for w in re.findall(pattern, text)]
    return found, re.sub(pattern, "#", text).split()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_blocks_of_a_page_run_and_print_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = blocks_of(page)
    assert {language for language, _ in blocks} <= {"python", "text", "bash"}
    names: dict = {"__name__": "__main__"}
    for (language, code), (following, expected) in zip(blocks, [*blocks[1:], ("", "")]):
        if language != "python":
            continue
        with contextlib.redirect_stdout(io.StringIO()) as output:
            exec(compile(code, str(page), "exec"), names)
        printed, words = numbers(output.getvalue())
        said, said_words = numbers(expected if following == "text" else "")
        assert words == said_words
        # In the last digit the sums of another processor may differ.
        np.testing.assert_allclose(printed, said, atol=0.011)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target

"""README.md: every block of Python runs, and prints what it says."""

import inspect
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

import tfreg

README = pathlib.Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What each block of Python printed; they are one script, in order."""
    mark = "-- end of block --"
    code = "".join(
        f"{block}\nprint({mark!r})\n" for language, block in BLOCKS if language == "python"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path_factory.mktemp("readme"),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split(mark)[:-1]


def numbers(text):
    """The numbers and truth values in `text`."""
    words = re.findall(r"True|False|-?\d+\.?\d*", text)
    return [float({"True": 1, "False": 0}.get(word, word)) for word in words]


def test_blocks_are_of_known_kinds():
    assert {language for language, _ in BLOCKS} == {"bash", "python", "text"}
    assert [language for language, _ in BLOCKS[:2]] == ["bash", "bash"]


def test_python_prints_what_readme_says(printed):
    blocks = [(language, block) for language, block in BLOCKS if language != "bash"]
    outputs = iter(printed)
    for (language, block), (following, expected) in zip(blocks, [*blocks[1:], ("", "")]):
        if language == "python":
            output = next(outputs)
            if following != "text":
                assert output.strip() == ""
            else:
                # In the last digit the sums of another processor may differ.
                np.testing.assert_allclose(numbers(output), numbers(expected), atol=0.011)


def test_the_penalties_and_their_arguments_are_those_of_the_package():
    text = README.read_text()
    for name in tfreg.__all__:
        if name[0].isupper() and name != "Sum":
            signature = re.search(rf"`{name}\((.*?)\)`", text).group(1)
            arguments = list(inspect.signature(getattr(tfreg, name)).parameters)
            stated = [argument for argument in signature.split(", ") if argument != "..."]
            assert arguments[: len(stated)] == stated
            assert arguments == stated or "..." in signature

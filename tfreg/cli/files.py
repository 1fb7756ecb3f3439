"""The model files that commands read, and what they say when that fails."""

import contextlib
import importlib
import logging
import os
import re
import stat
import sys
import zipfile

from tfreg import backend

# What both Keras 3 and tf_keras save a whole model into.
ENDINGS = (".keras", ".h5")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_SENTENCE = 200
# How the two name a class or function that they do not know, in messages of many lines.
UNKNOWN = re.compile(
    r"Could not (?:locate|deserialize) \w+ '([^']+)'"
    r"|Cannot deserialize object of type `([^`]+)`"
    r"|Unknown [\w ]+: '([^']+)'"
    r"|(?:Unknown|Could not interpret) [\w ]+:? '?{.*?'config': '([^']+)'"
    r"|layer=(\w+) of type <class 'str'>"
)


def fail(command, message):
    """Ends the process with status 1 and one line on standard error."""
    sys.exit(" ".join(f"tfreg {command}: {message}".split()))


def reason(error):
    """What an exception says first, of a path: Keras's messages go on with whole configs."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    *_, innermost = text.split("Exception encountered: ")
    sentence = re.split(r"(?<=[.!?])\s|\n\s*\n", innermost.strip(), maxsplit=1)[0]
    sentence = " ".join(sentence.split()).removesuffix(".") or type(error).__name__
    if len(sentence) > MAX_SENTENCE:
        sentence = f"{sentence[:MAX_SENTENCE]}..."
    return sentence.replace("Argument `path`", "it")


def import_modules(names):
    """Imports modules that register layers and penalties, those of the working directory first."""
    if names:
        sys.path.insert(0, os.getcwd())
    for name in names:
        importlib.import_module(name)


def load(command, path):
    """The model in a file of either Keras; `command` fails with a line on what is wrong."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            fail(command, f"{path} is not a file")
        path.open("rb").close()
    except OSError as error:
        fail(command, f"{path} cannot be read: {error.strerror}")
    try:
        with silenced("absl", "tensorflow"):  # they warn of a model that is not compiled
            return backend.load_model(str(path))
    except Exception as error:  # of whatever kind the libraries that read files raise
        fail(command, f"{path} cannot be loaded: {_reason_not_to_load(path, error)}")


def _reason_not_to_load(path, error):
    found = UNKNOWN.search(str(error))
    if found:
        [name] = filter(None, found.groups())
        return (
            f"it has {name!r}, which nothing here registers; name the module that does: "
            "--import MODULE"
        )
    if "Python lambda" in str(error) or "Python `lambda`" in str(error):
        return (
            "it has a layer with a Python lambda, which Keras loads in unsafe mode alone; make "
            "that a registered function, and save the model anew"
        )
    ending = _ending_by_content(path)
    if ending is None:
        return "it is no .keras or .h5 file, or not the whole of one"
    if ending != path.suffix:
        return f"its content is that of a file whose name ends in {ending}"
    said = reason(error)
    if isinstance(error, (TypeError, ValueError)) and not said.startswith("it "):
        said += "; if a layer or function is your own, name its module: --import MODULE"
    return said


def _ending_by_content(path):
    if zipfile.is_zipfile(path):
        return ".keras"
    with path.open("rb") as file:
        return ".h5" if file.read(len(HDF5_SIGNATURE)) == HDF5_SIGNATURE else None


@contextlib.contextmanager
def silenced(*names):
    """A scope without the records of loggers."""

    def refuse(record):
        return False

    for name in names:
        logging.getLogger(name).addFilter(refuse)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(refuse)

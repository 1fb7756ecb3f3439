"""Files of earlier releases give the models that they gave then."""

import json

import numpy as np
import pytest
import saved_files
from marks import slow

import tfreg

RELEASES = sorted(path.name for path in saved_files.DATA.iterdir())
EVERY_FILE = [
    (release, path.name)
    for release in RELEASES
    for path in sorted((saved_files.DATA / release).iterdir())
    if path.suffix != ".json"
]


def test_there_are_files_of_this_release():
    assert tfreg.__version__ in RELEASES
    names = {path.name for path in (saved_files.DATA / tfreg.__version__).iterdir()}
    assert names == {*saved_files.FILES, "expected.json"}


@pytest.mark.parametrize(
    "release, name",
    [entry if "layers" in entry[1] else slow(*entry) for entry in EVERY_FILE],
)
def test_a_file_loads_trains_and_is_saved_again(release, name, tmp_path):
    check_file(saved_files.DATA / release, name, tmp_path)


def check_file(folder, name, tmp_path):
    api = saved_files.APIS["tf_keras" if name.startswith("tf_keras") else "keras"]
    expected = json.loads((folder / "expected.json").read_text())[name]
    model = api.models.load_model(folder / name)
    assert_same(saved_files.summary(model), expected)
    if name.endswith(".keras"):
        assert model.optimizer.iterations.numpy() == 3
        model.save(tmp_path / name)
        again = api.models.load_model(tmp_path / name)
        assert_same(saved_files.summary(again), expected)
        loss = again.fit(saved_files.INPUTS, saved_files.INPUTS, verbose=0).history["loss"]
        assert np.isfinite(loss).all() and again.optimizer.iterations.numpy() == 4


def assert_same(actual, expected):
    assert actual["penalties"] == expected["penalties"]
    np.testing.assert_allclose(actual["losses"], expected["losses"], rtol=1e-5)
    np.testing.assert_allclose(actual["outputs"], expected["outputs"], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_files_written_anew_load_train_and_are_saved_again(tmp_path):
    folder = tmp_path / "release"
    saved_files.write(folder)
    assert {path.name for path in folder.iterdir()} == {*saved_files.FILES, "expected.json"}
    for name in saved_files.FILES:
        check_file(folder, name, tmp_path)

"""The columns that encoders make, by their names."""

import numpy as np
import pytest
from sklearn.compose import ColumnTransformer
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import tfreg

TABLE = np.array([["male", "S", "3"], ["female", "C", "1"], ["male", "Q", "2"]], object)


def test_columns_of_get_dummies_are_found():
    # What pandas.get_dummies makes from a frame with these columns.
    columns = ["age", "Sex_female", "Sex_male", "home_town_New_York", "home_town_Rome"]
    found = tfreg.columns_by_feature(columns, ["Sex", "age", "cabin", "home_town"])
    assert found == {"Sex": [1, 2], "age": [0], "home_town": [3, 4]}
    assert list(found) == ["Sex", "age", "home_town"]


def test_columns_of_scikit_learns_encoders_are_found():
    encoder = OneHotEncoder().fit(TABLE[:, :2])
    columns = encoder.get_feature_names_out(["sex", "port"])
    assert tfreg.columns_by_feature(columns, ["sex", "port"]) == {"sex": [0, 1], "port": [2, 3, 4]}
    transformer = ColumnTransformer(
        [("one_hot", OneHotEncoder(), [0, 1]), ("scaled", StandardScaler(), [2])]
    ).fit(TABLE)
    columns = transformer.get_feature_names_out(["sex", "port", "class"])
    found = tfreg.columns_by_feature(columns, ["class", "sex", "port"])
    assert found == {"class": [5], "sex": [0, 1], "port": [2, 3, 4]}


def test_the_longest_name_wins_only_where_the_other_feature_has_its_own_column():
    features = ["size", "size_class"]
    columns = ["size", "size_class_big", "size_class_small"]
    assert tfreg.columns_by_feature(columns, features) == {"size": [0], "size_class": [1, 2]}
    with pytest.raises(ValueError, match="'size_class_big', which may be of any of .*size_class"):
        tfreg.columns_by_feature(["size_S", *columns[1:]], features)


@pytest.mark.parametrize(
    "columns, features, message",
    [
        (["sex_male", "fare"], ["sex"], "'fare', which is of none"),
        (["sex=male"], ["sex"], "'sex=male', which is of none"),
        (["sex", "sex"], ["sex"], "`columns` must be a non-empty list of distinct names"),
        (["sex"], [], "`features` must be a non-empty list of distinct names"),
        ("sex", ["sex"], "`columns` must be a non-empty list.*'sex'"),
        (5, ["sex"], "`columns` must be a non-empty list.*5"),
        (["a_b", "a_b_1"], ["a", "a_b"], "'a_b', which may be of any of .'a', 'a_b'"),
    ],
)
def test_what_cannot_be_told_is_an_error(columns, features, message):
    with pytest.raises(ValueError, match=message):
        tfreg.columns_by_feature(columns, features)


@pytest.mark.parametrize("separator", ["", None])
def test_a_separator_is_needed(separator):
    with pytest.raises(ValueError, match="`separator` must be a non-empty string"):
        tfreg.columns_by_feature(["sex_male"], ["sex"], separator)


def test_another_separator_is_followed():
    assert tfreg.columns_by_feature(["sex=male"], ["sex"], separator="=") == {"sex": [0]}

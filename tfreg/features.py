"""The columns that a one-hot encoder makes from each feature."""

from collections.abc import Iterable, Iterator

__all__ = ["columns_by_feature"]


def columns_by_feature(
    columns: Iterable[str], features: Iterable[str], separator: str = "_"
) -> dict[str, list[int]]:
    """Finds the columns that an encoder made from each feature, by their names.

    A column belongs to the feature whose name it has, or begins with, the `separator` behind it. So
    they are named by pandas' `get_dummies` and by `get_feature_names_out()` of scikit-learn's
    `OneHotEncoder` and `ColumnTransformer`; the latter's transformer, before two underscores, is
    left out. A feature with a column of its own name counts as not encoded.

    Args:
        columns: the names of the encoder's columns, in the order of the model's inputs.
        features: the names of the features before they were encoded. Those without a column are
            left out of the result.
        separator: what stands between the name of a feature and that of a category, not empty.

    Returns:
        A dict from the features, in the order given, to the indices of their columns. Its values
        are the `groups` of a `GroupLasso(axis="input")`.

    Raises:
        ValueError: if a column belongs to no feature, or may belong to several.

    Example:

    >>> columns = ["age", "sex_female", "sex_male", "port_C", "port_Q", "port_S"]
    >>> tfreg.columns_by_feature(columns, features=["sex", "age", "port"])
    {'sex': [1, 2], 'age': [0], 'port': [3, 4, 5]}
    """
    if not isinstance(separator, str) or not separator:
        raise ValueError(
            "Argument `separator` must be a non-empty string. " f"Received: separator={separator!r}"
        )
    listed = _names("columns", columns)
    found: dict[str, list[int]] = {feature: [] for feature in _names("features", features)}
    # With and without what a ColumnTransformer puts before a name.
    names = [{column, column.partition("__")[2] or column} for column in listed]
    not_encoded = found.keys() & set().union(*names)
    for index, (column, possible) in enumerate(zip(listed, names)):
        owners = {name for name in possible if name in found}
        for name in possible:
            owners |= found.keys() & set(_beginnings(name, separator)) - not_encoded
        if len(owners) != 1:
            whose = f"may be of any of {sorted(owners)}" if owners else "is of none of them"
            raise ValueError(
                "Argument `columns` must consist of names that each begin with the name of one of "
                f"the `features`. Received: {column!r}, which {whose}"
            )
        found[owners.pop()].append(index)
    return {feature: indices for feature, indices in found.items() if indices}


def _beginnings(name: str, separator: str) -> Iterator[str]:
    """What stands before each `separator` in `name`."""
    place = name.find(separator)
    while place >= 0:
        yield name[:place]
        place = name.find(separator, place + 1)


def _names(argument: str, names: Iterable[str]) -> list[str]:
    is_list = isinstance(names, Iterable) and not isinstance(names, str)
    listed = [str(name) for name in names] if is_list else []
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(
            f"Argument `{argument}` must be a non-empty list of distinct names. "
            f"Received: {argument}={names!r}"
        )
    return listed

"""The groups that a user asks for."""

import numpy as np

from tfreg.groups import Groups, resolve_axes


def test_groups_are_equal_by_value():
    assert Groups([0, 1], [2, None]) == Groups((np.int64(0), 1), (2, None))
    assert len({Groups("output"), Groups("output"), Groups(0), Groups(0, 3)}) == 3


def test_resolve_axes():
    assert resolve_axes(-1, 3) == (2,)
    assert resolve_axes((0, -1), 3) == (0, 2)

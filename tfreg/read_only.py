"""Arguments that never change once an object is made."""

import functools
import inspect
from typing import Any

import numpy as np


class ReadOnly:
    """Refuses to assign, delete or change an argument of the constructor once that is over.

    The arguments are those of the class and of all classes it inherits from. Until the outermost
    `__init__` returns or raises, they may be set in any order; other attributes are always free. A
    subclass sets `_instead`, a sentence that says what to do in place of a change.
    """

    _instead = "Make another one."
    _arguments_of_init: frozenset = frozenset()

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        owners = [base for base in cls.__mro__ if "__init__" in vars(base)]
        if owners[0] is cls or not issubclass(owners[0], ReadOnly):
            setattr(cls, "__init__", _locking(cls.__init__))
        constructors = [vars(base)["__init__"] for base in owners]
        cls._arguments_of_init = cls._arguments_of_init.union(
            name
            for constructor in filter(inspect.isfunction, constructors)
            for name in list(inspect.signature(constructor).parameters)[1:]
        )

    def __setattr__(self, name, value):
        self._check_not_an_argument(name)
        super().__setattr__(name, value)

    def __delattr__(self, name):
        self._check_not_an_argument(name)
        super().__delattr__(name)

    def _check_not_an_argument(self, name):
        if name in self._arguments_of_init and "_is_made" in vars(self):
            raise AttributeError(self._refusal(f"`{name}` of {type(self).__name__}"))

    def _read_only(self, name, value):
        """`value`, that of the argument `name`, with what it consists of read-only too."""
        return _read_only(value, self._refusal(f"`{name}` of {type(self).__name__}"))

    def _refusal(self, what):
        return (
            f"{what} cannot be changed once it is made: what is compiled would not follow. "
            f"{self._instead}"
        )


def _locking(init):
    """`init`, and from then on the arguments of the object are read-only."""

    @functools.wraps(init)
    def constructor(self, *args, **kwargs):
        if "_is_made" in vars(self):
            raise AttributeError(self._refusal(f"A {type(self).__name__}"))
        # One that the outermost calls does not end the construction.
        is_outermost = type(self).__init__ is constructor
        try:
            init(self, *args, **kwargs)
            if is_outermost:
                for name in self._arguments_of_init & vars(self).keys():
                    vars(self)[name] = self._read_only(name, vars(self)[name])
        finally:
            if is_outermost:
                vars(self)["_is_made"] = True

    return constructor


def _read_only(value, refusal):
    """`value` with every list, dict and array in it as one that cannot be changed."""
    if isinstance(value, dict):
        return _Dict({key: _read_only(entry, refusal) for key, entry in value.items()}, refusal)
    if isinstance(value, list):
        return _List([_read_only(entry, refusal) for entry in value], refusal)
    if isinstance(value, np.ndarray):
        # NumPy makes a copied or unpickled array writable again.
        value = value.copy() if value.flags.writeable else value.view()
        value.flags.writeable = False
    return value


class _Unchanging:
    """A list or a dict that raises an AttributeError in place of changing."""

    _plain: Any

    def __init__(self, entries, refusal):
        self._plain.__init__(self, entries)
        self._refusal = refusal

    def __reduce_ex__(self, protocol):
        # By default a copy is filled entry by entry.
        return type(self), (self._plain(self), self._refusal)

    def _refuse(self, *args, **kwargs):
        raise AttributeError(self._refusal)

    __setitem__ = __delitem__ = clear = pop = _refuse


class _List(_Unchanging, list):
    _plain = list
    append = extend = insert = remove = sort = reverse = _Unchanging._refuse
    __iadd__ = __imul__ = _Unchanging._refuse


class _Dict(_Unchanging, dict):
    _plain = dict
    popitem = setdefault = update = __ior__ = _Unchanging._refuse

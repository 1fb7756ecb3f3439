"""Arguments that never change once an object is made."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np


class ReadOnly:
    """Makes the constructor's arguments read-only once the object is made.

    The arguments are those of the class and of all classes it inherits from. Until the outermost
    `__init__` returns or raises, they may be set in any order; other attributes are always free. A
    subclass sets `_instead`, a sentence that says what to do in place of a change.
    """

    _instead = "Make another one."
    _arguments_of_init: frozenset[str] = frozenset()

    def __init_subclass__(cls, **kwargs: Any) -> None:
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

    def __setattr__(self, name: str, value: Any) -> None:
        self._check_not_an_argument(name)
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        self._check_not_an_argument(name)
        super().__delattr__(name)

    def _check_not_an_argument(self, name: str) -> None:
        if name in self._arguments_of_init and "_is_made" in vars(self):
            raise AttributeError(self._refusal(f"`{name}` of {type(self).__name__}"))

    def _read_only(self, name: str, value: Any) -> Any:
        """Copies the `value` of the argument `name` as one whose contents are read-only too."""
        return _read_only(value, self._refusal(f"`{name}` of {type(self).__name__}"))

    def _refusal(self, what: str) -> str:
        return (
            f"{what} cannot be changed once it is made: what is compiled would not follow. "
            f"{self._instead}"
        )


def _locking(init: Callable[..., None]) -> Callable[..., None]:
    """Wraps `init` so that the arguments of the object are read-only afterwards."""

    @functools.wraps(init)
    def constructor(self: Any, *args: Any, **kwargs: Any) -> None:
        if "_is_made" in vars(self):
            raise AttributeError(self._refusal(f"A {type(self).__name__}"))
        # An `__init__` that the outermost one calls does not end the construction.
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


def _read_only(value: Any, refusal: str) -> Any:
    """Copies `value` with every list, dict and array in it as one that cannot be changed."""
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
    """A list or a dict that raises an AttributeError instead of changing."""

    _plain: Any

    def __init__(self, entries: Any, refusal: str) -> None:
        self._plain.__init__(self, entries)
        self._refusal = refusal

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        # By default, copy and pickle fill a copy entry by entry.
        return type(self), (self._plain(self), self._refusal)

    def _refuse(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise AttributeError(self._refusal)

    __setitem__ = __delitem__ = clear = pop = _refuse


class _List(_Unchanging, list):
    _plain = list
    append = extend = insert = remove = sort = reverse = _Unchanging._refuse
    __iadd__ = __imul__ = _Unchanging._refuse


class _Dict(_Unchanging, dict):
    _plain = dict
    popitem = setdefault = update = __ior__ = _Unchanging._refuse

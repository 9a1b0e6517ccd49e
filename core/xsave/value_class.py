"""``define`` and ``frozen`` of attrs, at the moment when the first object is made.

attrs writes the methods of a class as text and compiles it: 3 million instructions a class, a
third of what starting a command took. There are 150 such classes and a run makes objects
of 40. So a class declared with these has only a first ``__init__``, which lets attrs do its
work on the class as it stands, and then hands over to what attrs made. From there on it is a class
of attrs like any other, without slots: those need another class object.

Who looks at the fields of a class before there is an object (``attrs.fields``, ``attrs.has``,
a class of attrs that derives from it) makes attrs do its work there and then.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

__all__ = ["define", "frozen", "make_classes"]

if TYPE_CHECKING:
    # To a type checker these are attrs' own: it knows them by name.
    from attrs import define, frozen
else:

    def define(cls: type | None = None, **options: Any) -> Any:
        """As :func:`attrs.define`, of a class that has no ``__init__`` of its own."""
        return _declare(cls, options)

    def frozen(cls: type | None = None, **options: Any) -> Any:
        """As :func:`attrs.frozen`, of a class that has no ``__init__`` of its own."""
        return _declare(cls, {"frozen": True, **options})


_FIELDS = "__attrs_attrs__"  # where attrs keeps, and looks for, the fields of a class
# Objects are made in any thread; attrs looks at a class once. Reentrant: base classes come first.
_lock = threading.RLock()


class _Fields:
    """In the place of a class's fields until attrs has made them."""

    def __init__(self, cls: type, options: dict[str, Any]) -> None:
        self._cls = cls
        self._options = options

    def __get__(self, _object: object, _owner: type) -> Any:
        self.make()
        return getattr(self._cls, _FIELDS)

    def make(self) -> None:
        """Once, however many ask."""
        with _lock:
            if vars(self._cls)[_FIELDS] is not self:
                return
            import attrs

            # ``init``, since it sees an ``__init__`` and would take it for the class's own.
            attrs.define(self._cls, slots=False, init=True, **self._options)


def make_classes(module: str) -> None:
    """Of a module that is loaded: do now what the first object of each class would do.

    Of one that Python does not list, such as code that a program compiled by itself, nothing:
    there it stays with the first object.
    """
    if module not in sys.modules:
        return
    for found in tuple(vars(sys.modules[module]).values()):
        if isinstance(found, type) and isinstance(fields := vars(found).get(_FIELDS), _Fields):
            fields.make()


def _declare(cls: type | None, options: dict[str, Any]) -> Any:
    if cls is None:
        return lambda cls: _declare(cls, options)
    if "__init__" in vars(cls):
        raise TypeError(f"{cls.__name__} has an __init__ of its own, so nothing is to be made")
    fields = _Fields(cls, options)
    setattr(cls, _FIELDS, fields)
    cls.__init__ = _first_init(cls, fields)  # type: ignore[misc]
    return cls


def _first_init(cls: Any, fields: _Fields) -> Callable[..., None]:
    def __init__(self: Any, *values: Any, **by_name: Any) -> None:  # noqa: N807
        fields.make()
        cls.__init__(self, *values, **by_name)

    return __init__

"""Classes whose methods are made when there is an object to use them on."""

from __future__ import annotations

import copy
import pickle
import sys
import threading
import types
from typing import Any

import attrs
import pytest

from xsave import define, frozen
from xsave.value_class import make_classes


def is_made(cls: type) -> bool:
    return isinstance(vars(cls)["__attrs_attrs__"], tuple)


@frozen
class Point:
    x: int
    y: int = attrs.field(default=2, converter=int)


@frozen
class Pixel(Point):
    colour: str = "red"


def test_a_class_is_made_with_its_first_object() -> None:
    @frozen
    class One:
        value: int

    assert not is_made(One)
    assert One(3).value == 3
    assert is_made(One)
    assert One.__init__.__qualname__.endswith(".One.__init__")  # attrs' own: nothing between


def test_it_is_the_class_that_was_declared() -> None:
    declared: list[type] = []

    class Watched(type):
        def __init__(cls, *of_class: Any) -> None:
            super().__init__(*of_class)
            declared.append(cls)

    @frozen
    class One(metaclass=Watched):
        value: int = 0

    One()
    assert declared == [One]


def test_objects_are_as_those_of_attrs() -> None:
    one = Point(1, "5")
    assert (one, repr(one), hash(one)) == (Point(1, 5), "Point(x=1, y=5)", hash(Point(1, 5)))
    assert one != Point(1)
    assert attrs.evolve(one, x=7) == Point(7, 5)
    assert attrs.asdict(one) == {"x": 1, "y": 5}
    with pytest.raises(AttributeError):
        one.x = 2  # type: ignore[misc]
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'x'"):
        Point()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unexpected keyword argument 'z'"):
        Point(1, z=2)  # type: ignore[call-arg]


def test_the_first_object_may_be_one_that_is_refused() -> None:
    @frozen
    class One:
        value: int = attrs.field(validator=attrs.validators.ge(0))

    for _ in range(2):
        with pytest.raises(ValueError, match="must be >= 0"):
            One(-1)
        with pytest.raises(TypeError):
            One()  # type: ignore[call-arg]
    assert One(1).value == 1


def test_a_class_that_derives_has_the_fields_of_its_base_which_had_no_object() -> None:
    assert Pixel(1, 2, "blue") == Pixel(1, 2, colour="blue")
    assert [one.name for one in attrs.fields(Pixel)] == ["x", "y", "colour"]


def test_a_class_of_attrs_may_derive_from_one_that_had_no_object() -> None:
    @define
    class Base:
        x: int

    @attrs.define
    class Derived(Base):
        y: int = 2

    assert repr(Derived(1)).endswith("Derived(x=1, y=2)")


def test_a_plain_class_may_derive_and_add_to_init() -> None:
    @define(eq=False)
    class Base:
        x: int

    class Derived(Base):
        def __init__(self) -> None:
            super().__init__(4)

    assert Derived().x == 4
    assert Derived() != Derived()


def test_fields_are_known_before_there_is_an_object() -> None:
    @define(kw_only=True)
    class One:
        x: int
        y: int = 0

    assert attrs.has(One)
    assert [(one.name, one.kw_only) for one in attrs.fields(One)] == [("x", True), ("y", True)]


def test_what_has_an_init_of_its_own_is_refused() -> None:
    with pytest.raises(TypeError, match="One has an __init__ of its own"):

        @define
        class One:
            def __init__(self) -> None:
                pass


def test_objects_can_be_copied_and_pickled() -> None:
    one = Pixel(1)
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


def test_an_error_of_such_a_class_has_its_fields_and_its_arguments() -> None:
    @define(eq=False)
    class OurError(Exception):
        offset: int

    with pytest.raises(OurError) as caught:
        raise OurError(offset=5)
    assert (caught.value.offset, caught.value.args) == (5, (5,))


def made_at_once(cls: Any, nr_threads: int) -> list[Any]:
    barrier, found = threading.Barrier(nr_threads), list[Any]()

    def make() -> None:
        barrier.wait()
        found.append(cls(1))

    threads = [threading.Thread(target=make) for _ in range(nr_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def test_classes_of_a_module_are_made_before_there_is_an_object() -> None:
    module = types.ModuleType("of_this_test")
    exec("from xsave import frozen\n@frozen\nclass One: number: int", vars(module))
    assert "__eq__" not in vars(module.One)
    make_classes(module.__name__)  # Python does not list it: nothing is done, and nothing fails
    assert "__eq__" not in vars(module.One)
    sys.modules[module.__name__] = module
    try:
        make_classes(module.__name__)
    finally:
        del sys.modules[module.__name__]
    assert "__eq__" in vars(module.One)
    assert module.One(1) == module.One(1)


def test_threads_that_make_first_objects_at_once_all_get_whole_ones() -> None:
    for _ in range(20):

        @frozen
        class One:
            value: int
            more: int = 3

        assert made_at_once(One, 4) == [One(1)] * 4

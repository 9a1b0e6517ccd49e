"""One table for each kind of thing that plugins offer: name to item, with its owner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from .errors import DuplicateNameError, UnknownNameError
from .record import Owner
from .value_class import frozen


class Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=Named)


@frozen
class Entry(Generic[T]):
    item: T
    owner: Owner


class Registry(Generic[T]):
    """:param kind: what it holds, for messages: "codec"."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, Entry[T]] = {}

    def add(self, item: T, owner: Owner) -> None:
        """:raises DuplicateNameError: the name is taken, by whomever."""
        if (taken := self._entries.get(item.name)) is not None:
            raise DuplicateNameError(
                kind=self.kind, name=item.name, first=str(taken.owner), second=str(owner)
            )
        self._entries[item.name] = Entry(item, owner)

    def find(self, name: str) -> T:
        """:raises UnknownNameError: lists the names that there are."""
        if (entry := self._entries.get(name)) is None:
            raise UnknownNameError(kind=self.kind, name=name, known=sorted(self._entries))
        return entry.item

    def get(self, name: str) -> Entry[T] | None:
        return self._entries.get(name)

    def drop(self, plugin: str) -> None:
        """Forget what a plugin offered."""
        self._entries = {n: e for n, e in self._entries.items() if e.owner.plugin != plugin}

    def names(self) -> list[str]:
        return sorted(self._entries)

    def items(self) -> dict[str, T]:
        return {name: entry.item for name, entry in self._entries.items()}

    def __iter__(self) -> Iterator[Entry[T]]:
        return iter(self._entries.values())

    def __len__(self) -> int:
        return len(self._entries)

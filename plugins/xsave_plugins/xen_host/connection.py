"""All that is open towards a Xen host: the hypervisor, domains' memory, xenstore."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .control import Machine
from .hypercalls import Hypercalls
from .libraries import Libraries, load_libraries
from .memory import ForeignMemory
from .xenstore import Xenstore


class Connection:
    """:param libraries: Xen's, found on this machine; in tests, others.
    :param connect: to xenstore.
    """

    def __init__(
        self, libraries: Libraries | None = None,
        connect: Callable[[], Xenstore] = Xenstore.connect,
    ) -> None:  # fmt: skip
        self._open: list[Any] = []
        try:
            found = libraries or load_libraries()
            self.hypercalls = self._opened(Hypercalls(found))
            self.memory = self._opened(ForeignMemory(found))
            self.store = self._opened(connect())
        except BaseException:
            self.close()
            raise
        self.machine = Machine(self.hypercalls)

    def _opened(self, one: Any) -> Any:
        self._open.append(one)
        return one

    def close(self) -> None:
        while self._open:
            self._open.pop().close()

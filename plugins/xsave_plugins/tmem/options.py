"""What a user may ask of this plugin, for one run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from xsave import PluginOption, frozen

PERSISTENT, SHARED = 1 << 0, 1 << 1  # flags of a pool

OPTIONS: Final = (
    PluginOption(
        "ephemeral", "whether pages of ephemeral pools go along, which the guest can do without",
        ("no", "yes"),
    ),
    PluginOption(
        "pages", "how pages go that the host holds compressed: as they are, or recoded to plain",
        ("held", "plain"),
    ),
)  # fmt: skip


@frozen
class TmemOptions:
    """:ivar ephemeral: send pages of private ephemeral pools too.
    :ivar recode: send all pages plain, whatever the host holds them in.
    """

    ephemeral: bool = False
    recode: bool = False

    def takes(self, flags: int) -> bool:
        """Whether pages of a pool with these flags go along. Never those of a shared one:
        others change them meanwhile, and at the destination it has others' pages."""
        return bool(flags & PERSISTENT) or (self.ephemeral and not flags & SHARED)

    @classmethod
    def of(cls, given: Mapping[str, str]) -> TmemOptions:
        return cls(given["ephemeral"] == "yes", given["pages"] == "plain")


DEFAULTS: Final = TmemOptions()

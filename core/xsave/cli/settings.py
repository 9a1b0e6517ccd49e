"""What the options that every command understands were set to, in one invocation."""

from __future__ import annotations


class Settings:
    """:ivar json: print one JSON object instead of text.
    :ivar json_on_stderr: standard output carries an image, so JSON goes elsewhere.
    :ivar progress: True or False as asked for; None to show it on a terminal.
    :ivar verbosity: -1 for ``-q``, else the number of ``-v``.
    """

    def __init__(self) -> None:
        self.json = False
        self.json_on_stderr = False
        self.progress: bool | None = None
        self.verbosity = 0

    @property
    def quiet(self) -> bool:
        return self.verbosity < 0

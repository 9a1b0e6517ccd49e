"""Who owns a guest that moves between two processes: tables of states, and their proof.

Nothing here does I/O. The same tables drive the program (:class:`Conduct`) and the model that
walks every way in which messages and processes can fail; docs/migration.md shows them.
"""

"""Target 12: what encoding and decoding the head of a record costs, in microseconds.

In-process, as a program of its own so that run.py stays small: prints
``{"us": [...]}``, the processor time of one head there and back, over several rounds.
"""

from __future__ import annotations

import json
import time
from typing import Any

from xsave_plugins.native import spec

NR_ROUNDS, NR_HEADS = 9, 5000


def there_and_back(head: dict[str, Any]) -> dict[str, Any]:
    """All that a record's head passes through: to CBOR, framed with its checksum; taken
    apart again, the checksum compared."""
    encoded = spec.dump(head)
    framed, _ = spec.frame(spec.RECORD, encoded, b"", head["size"], spec.ALIGNMENT, 4096)
    fixed = memoryview(framed)[: spec.PREFIX.size]
    prefix = spec.unpack_prefix(fixed, 4096)
    body = memoryview(framed)[spec.PREFIX.size :][: prefix.head_size]
    if spec.head_sum(fixed[:-8], body, b"") != prefix.sum:
        raise ValueError("the head does not survive")
    return spec.load(body, "head of a record", 4096)


def main() -> None:
    head = {"type": 7, "size": 2504, "sum": bytes(range(16)), "codec": "zstd"}
    if there_and_back(head) != head:
        raise ValueError("the head does not come back")
    times = []
    for _ in range(NR_ROUNDS):
        start = time.process_time()
        for _ in range(NR_HEADS):
            there_and_back(head)
        times.append((time.process_time() - start) / NR_HEADS * 1e6)
    print(json.dumps({"us": [round(value, 2) for value in times]}))


if __name__ == "__main__":
    main()

"""
Loads tables in a process of its own, one after the other, as `headrace load` does.

It takes an order as JSON, says "ready" when all is imported, begins at the first byte of its input, and prints what it saw.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from headrace.chain import Chain
from headrace.demo.contracts import Trade
from headrace.load import Load
from headrace.plugins.duckdb.loader import DuckDBLoader
from headrace.plugins.lake.local import FileStore


def main() -> None:
    order = json.loads(sys.argv[1])
    print("ready", flush=True)
    os.read(0, 1)
    cpu_s, records = time.process_time(), 0
    for file in order["files"]:
        loader = DuckDBLoader(database=Path(file), target="ticks", contract=Trade)
        records += Load(chain=Chain.open(FileStore(root=Path(order["lake"])), "ticks"), loader=loader).run().records
    print(json.dumps({"records": records, "cpu_s": time.process_time() - cpu_s}))


if __name__ == "__main__":
    main()

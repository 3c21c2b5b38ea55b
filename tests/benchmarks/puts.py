"""Small create-only PUTs by each client of S3, on MinIO: how many a second, and the processor time of one."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CLIENTS = ("s3", "s3+obstore")


def one(uri: str, count: int, size: int, threads: int) -> dict[str, float]:
    """In a process of its own: what one client costs."""
    from headrace.registry import Registry  # noqa: PLC0415 - what is imported is part of what is measured

    with contextlib.closing(Registry.discover().store(uri)) as store:
        body = os.urandom(size)
        store.create("warm", body, {})
        began, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(threads) as pool:
            assert all(
                pool.map(lambda n: store.create(f"s/partition=0/{n:020}.jsonl.gz", body, {"start": "0"}), range(count))
            )
        seconds, spent = time.perf_counter() - began, time.process_time() - cpu
    return {"puts_per_s": count / seconds, "cpu_ms_per_put": 1000 * spent / count}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one(given.one[0], *map(int, given.one[1:]))))
        return
    from headrace.testing.servers.minio import Minio  # noqa: PLC0415 - as above

    print("| size | threads | client | PUTs/s | CPU ms a PUT |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder, Minio(folder=Path(folder)) as server:
        for size, threads in ((2_000, 1), (2_000, 8), (200_000, 8), (4_000_000, 4)):
            count = given.count if size < 1_000_000 else given.count // 20
            for client in CLIENTS:
                found = []
                for _ in range(given.rounds):
                    uri = server.endpoint.uri(server.endpoint.bucket(), client)
                    command = [sys.executable, __file__, "--one", uri, str(count), str(size), str(threads)]
                    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600)
                    found.append(json.loads(done.stdout))
                rate, cpu = max(f["puts_per_s"] for f in found), min(f["cpu_ms_per_put"] for f in found)
                print(f"| {size:,} B | {threads} | {client} | {rate:,.0f} | {cpu:.2f} |", flush=True)


if __name__ == "__main__":
    main()

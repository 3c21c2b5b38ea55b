"""
An exchange that sends numbered trades for so many seconds: ``python market.py RATE SECONDS``.

It prints its port, waits for one client, and says in each message when it sent it, in nanoseconds since the epoch.
"""

from __future__ import annotations

import sys
import time

from headrace.testing.servers.exchange import PlainExchange

SYMBOLS = ("AAPL", "MSFT", "IBM", "BAC", "NVDA", "TSLA", "AMZN", "META", "GOOG", "JPM")


def frame(number: int) -> bytes:
    """Make an array of a trade of each symbol."""
    at_ns = time.time_ns()
    text = ",".join(f'{{"T":"t","S":"{s}","n":{number},"p":{100 + number % 977}.25,"at":{at_ns}}}' for s in SYMBOLS)
    return f"[{text}]".encode()


def main() -> None:
    rate, seconds = int(sys.argv[1]), float(sys.argv[2])
    every_s = len(SYMBOLS) / rate
    with PlainExchange(confirms='{"T":"subscribed"}') as exchange:
        print(exchange.port, flush=True)
        exchange.wait_for_clients()
        began_s = next_s = time.monotonic()
        number = 1
        while next_s < began_s + seconds:
            exchange.send(frame(number))
            number, next_s = number + 1, next_s + every_s
            time.sleep(max(0.0, next_s - time.monotonic()))
        print((number - 1) * len(SYMBOLS), flush=True)
        sys.stdin.readline()  # the connection stays up until all is counted


if __name__ == "__main__":
    main()

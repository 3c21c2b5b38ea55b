"""
An exchange that trades without end: ``python exchange.py FOLDER RATE``.

It sends frames of 100 messages, each numbered by its symbol, whether anybody listens or not. Every frame is entered into
``FOLDER/sent``, when it was sent and the symbols' first numbers in it: what silver is compared with. Orders come by standard
input, a line each, and each is answered by a line.
"""

from __future__ import annotations

import json
import struct
import sys
import threading
import time
from pathlib import Path
from typing import BinaryIO

from headrace.testing.servers.exchange import PlainExchange

SYMBOLS = ("AAPL", "MSFT", "IBM", "BAC", "NVDA", "TSLA", "AMZN", "META", "GOOG", "JPM")
EACH = 10
"""Messages of a symbol in a frame."""

FRAME = struct.Struct("<qq")
"""Nanoseconds since the epoch, and the number of the first message of each symbol."""


class Tape:
    """What is traded: an array of messages after the other."""

    def __init__(self, exchange: PlainExchange, sent: BinaryIO) -> None:
        self.exchange, self.sent = exchange, sent
        self.number = 1  # of each symbol's next message
        self.late_s = 0.0
        self.wanted: list[str] = []
        self.stopping = threading.Event()

    def frame(self, number: int, at_ns: int, numbers: range | None = None) -> bytes:
        numbers = range(number, number + EACH) if numbers is None else numbers
        text = ",".join(
            f'{{"T":"t","S":"{symbol}","n":{n},"p":{100 + n % 977}.{n % 100:02},"s":{1 + n % 300},"x":"K","c":["@","I"],'
            f'"at":{at_ns}}}'
            for symbol in SYMBOLS
            for n in numbers
        )
        return f"[{text}]".encode()

    def run(self, rate: int) -> None:
        """Send so many messages a second; what could not be sent in time follows as fast as it can."""
        every_s = EACH * len(SYMBOLS) / rate
        next_s = time.monotonic()
        while not self.stopping.is_set():
            self.turn()
            next_s += every_s
            self.late_s = time.monotonic() - next_s
            if self.late_s < 0:
                self.stopping.wait(-self.late_s)

    def turn(self) -> None:
        at_ns, number = time.time_ns(), self.number
        self.sent.write(FRAME.pack(at_ns, number))
        order = self.wanted.pop() if self.wanted else ""
        if order == "leave out":  # the exchange's own fault: its numbers tell
            self.exchange.send(self.frame(number, at_ns, range(number + EACH // 2, number + EACH)))
        elif order == "twice":
            self.exchange.send(self.frame(number, at_ns))
            self.exchange.send(self.frame(number, at_ns))
        elif order == "disorder":
            self.exchange.send(self.frame(number, at_ns, range(number + EACH // 2, number + EACH)))
            self.exchange.send(self.frame(number, at_ns, range(number, number + EACH // 2)))
        elif order == "broken":
            self.exchange.send(b'[{"T":"t","S":"AAPL","n":')
            self.exchange.send(self.frame(number, at_ns))
        else:
            self.exchange.send(self.frame(number, at_ns))
        self.number += EACH


def main() -> None:
    folder, rate = Path(sys.argv[1]), int(sys.argv[2])
    with PlainExchange(confirms='{"T":"subscribed"}') as exchange, (folder / "sent").open("wb") as sent:
        tape = Tape(exchange, sent)
        thread = threading.Thread(target=tape.run, args=(rate,))
        print(json.dumps({"port": exchange.port}), flush=True)
        for line in sys.stdin:
            order, _, more = line.strip().partition(" ")
            if order == "begin":
                thread.start()
            elif order == "close":
                exchange.close()
            elif order == "drop":
                exchange.drop()
            elif order == "freeze":
                exchange.frozen = True
            elif order == "thaw":
                exchange.frozen = False
                exchange.drop()
            elif order == "tape":
                tape.wanted.append(more)
            elif order == "stop":
                tape.stopping.set()
                thread.join(120)
                sent.flush()
            said = {"number": tape.number, "late_s": tape.late_s, "connections": exchange.connections}
            print(json.dumps({**said, "listening": len(exchange.subscribed())}), flush=True)
        tape.stopping.set()


if __name__ == "__main__":
    main()

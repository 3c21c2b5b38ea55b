"""
A stand-in for Snowflake that real connectors talk to: fakesnow's server, mended where it hides what a loader must see.

It runs by the Python of a virtual environment of its own (`headrace.testing.servers.snowflake`), never by headrace's:
``python snowflake_emulator PORT [FOLDER]``. With a folder its databases and stages outlive it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import exact
import kept
import uvicorn
import wire

exact.mend()
kept.open_all(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
uvicorn.run(wire.mended(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")

"""``headrace``, and by ``--forget-gaps`` one whose gap records are lost on their way: the negative control."""

from __future__ import annotations

import sys

from headrace.cli import main
from headrace.plugins.market.gaps import Gaps

if "--forget-gaps" in sys.argv:
    sys.argv.remove("--forget-gaps")
    Gaps._write = lambda _, gap, **__: gap

if __name__ == "__main__":
    main()

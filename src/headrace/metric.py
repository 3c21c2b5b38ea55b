"""A number that somebody outside may look at."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen
class Metric:
    """
    A number at one moment, by the conventions of Prometheus.

    Attributes:
        name: Whole, with its unit: ``headrace_feed_gap_seconds_total``. With ``_total`` it only ever grows.

        help: What it says, in a sentence.

        value: Now.

        labels: Of few values each: a feed's name, never an offset.
    """

    name: str
    help: str
    value: float
    labels: Mapping[str, str] = attrs.field(factory=dict)

"""Looks whether a bucket deletes by itself what a lake must keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from headrace.finding import Finding

_ARCHIVES = ("GLACIER", "DEEP_ARCHIVE")


def rules_that_harm(rules: Iterable[Mapping[str, Any]], root: str) -> Iterator[Finding]:
    """
    Find the lifecycle rules that take objects of a lake.

    Args:
        rules: As S3 answers.

        root: The lake's prefix; "" for the whole bucket.
    """
    for rule in rules:
        if rule.get("Status") != "Enabled" or _by_tag(rule) or not _meets(_prefix(rule), root):
            continue
        name = f"lifecycle rule {rule.get('ID') or 'without a name'}"
        if {"Days", "Date"} & set(rule.get("Expiration", {})):
            text = f"it deletes objects under {_prefix(rule)!r} by age"
            advice = (
                "it knows neither order nor the newest, and takes whole chains: remove it, and use `headrace expire`"
            )
            yield Finding(name, "wrong", text, advice)
        for to in rule.get("Transitions", ()):
            if to.get("StorageClass") in _ARCHIVES:
                text = f"it moves objects under {_prefix(rule)!r} to {to['StorageClass']}"
                yield Finding(
                    name, "wrong", text, "they could not be read there: choose a class that can, or leave the lake out"
                )


def _prefix(rule: Mapping[str, Any]) -> str:
    """Where a rule holds; what it says of sizes besides may spare an object, and nobody should rely on that."""
    within = rule.get("Filter", {})
    return str(rule.get("Prefix") or within.get("Prefix") or within.get("And", {}).get("Prefix") or "")


def _by_tag(rule: Mapping[str, Any]) -> bool:
    """Whether it holds for objects with a tag: those of a lake have none."""
    within = rule.get("Filter", {})
    return "Tag" in within or bool(within.get("And", {}).get("Tags"))


def _meets(prefix: str, root: str) -> bool:
    if "/_headrace/probes/" in prefix:
        return False  # may go
    return prefix.startswith(root) or root.startswith(prefix)

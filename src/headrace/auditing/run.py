"""An audit as an object: what it is asked, and the one call that answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime

import attrs

from headrace.auditing.asked import Asked
from headrace.auditing.contracts import Contracts
from headrace.auditing.facts import Facts
from headrace.auditing.looking import Look
from headrace.auditing.result import AuditResult
from headrace.auditing.scope import Scope
from headrace.auditing.summing import summed


@attrs.define(kw_only=True, eq=False)
class Audit(Asked):
    """
    Compares log, lake and warehouse. Safe while everything runs: it writes nothing, and joins no consumer group.

    Attributes:
        store: Under the lake.

        stream: Whose.

        epoch: Of the stream; "" for the first one.

        source: The log that it was made from; None: it is not compared with one.

        loader: Of the target; None: there is none.

        source_name: The source's, for people.

        loader_name: The target's.

        typed: With `deep`, rows are compared cell by cell by the loader's contract. False: the contract is not known, and a deep
            audit of a table cannot be complete.

        earlier: Contracts of earlier versions that rows were loaded by.

        gaps: The stream with the gap records of a feed; "": ``<feed>.gaps`` beside ``<feed>.<kind>``, where the lake has it.

        deep: Read every object, line by line; compare with the log record by record, as far as it still has them, and with the
            warehouse row by row.

        since: Only from this offset on, or from this time on, ISO-8601 with a zone.

        until: Only up to there.

        caught_up: What is on its way makes the stream incomplete.

        workers: How many objects are read at once; 1: no thread but the caller's takes part.

        retry_for_s: How long what does not answer is tried.

        observe: Called with each object or range that was looked at.

        clock: Monotonic seconds.

        now_ns: Nanoseconds since the epoch.
    """

    def run(self) -> AuditResult:
        """
        Look at everything and say what was found.

        What does not answer is a finding of the kind "unknown", never an error.

        Raises:
            ConfigError: `since` or `until` is neither an offset nor a time, or nothing is between them; or two contracts are of
                one version.
        """
        began, moment = self.clock(), datetime.now(UTC).isoformat(timespec="seconds")
        with ExitStack() as stack:
            pool = None
            if self.workers > 1:
                pool = stack.enter_context(ThreadPoolExecutor(self.workers, thread_name_prefix="headrace-audit"))
            facts = Facts(self, Scope.of(self.since, self.until), Contracts.of(self))
            Look(facts, pool).run()
        return attrs.evolve(summed(facts), began_at=moment, elapsed_s=round(self.clock() - began, 3))

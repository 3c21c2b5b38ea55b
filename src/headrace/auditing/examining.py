"""All partitions to the byte, a few at once, and what is known only of all of them together."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from headrace.auditing.asked import Asked
from headrace.auditing.chains import Judged, View
from headrace.auditing.contracts import Contracts
from headrace.auditing.deep import Deep, Examination
from headrace.auditing.keys import Newest
from headrace.auditing.numbers import Numbers
from headrace.auditing.result import AuditFinding
from headrace.auditing.rows_deep import GIVE
from headrace.errors import HeadraceError
from headrace.records import Extent, Partition
from headrace.tally import Tally

ALL = -1
"""The place of what is known of all partitions together."""


def examine_all(
    audit: Asked,
    judged: Mapping[int, Judged],
    views: Mapping[int, View],
    extents: Mapping[Partition, Extent],
    tally: Tally | None,
    wanted: Mapping[int, tuple[int, int | None]],
    contracts: Contracts | None,
    numbers: Numbers,
    pool: ThreadPoolExecutor | None,
) -> dict[int, Deep]:
    """Look at all partitions, a few at once; errors of what does not answer are raised, those of what cannot be asked told."""
    newest, why = Newest.of(audit, tally, contracts, wanted)
    alone = threading.Lock()
    examinations = {
        number: Examination(
            audit=audit,
            judged=of,
            seen=views[number],
            partition=Partition(audit.stream, number),
            extent=extents.get(Partition(audit.stream, number)),
            tally=tally,
            wanted=wanted[number],
            contracts=contracts,
            newest=newest,
            numbers=numbers,
            alone=alone,
        )
        for number, of in judged.items()
    }
    if pool is None:
        found = {number: _examined(examination, None) for number, examination in examinations.items()}
    else:
        with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="headrace-audit-deep") as workers:
            every = workers.map(lambda e: _examined(e, pool), examinations.values())
            found = dict(zip(examinations, every, strict=True))
    of_all = list(_untold(tally, contracts))
    if newest is not None:
        findings, remarks = newest.findings()
        found[ALL] = Deep([*of_all, *findings], remarks, None, {})
    elif of_all or why:
        of_all += [AuditFinding("unknown", "rows", None, 0, 0, why, GIVE)] if why else []
        found[ALL] = Deep(of_all, [], None, {})
    return found


def _untold(tally: Tally | None, contracts: Contracts | None) -> Iterator[AuditFinding]:
    """A table that could not be looked into is not complete, however right its counts are."""
    loads = [] if tally is None else [row for row in tally.ledger if row.kind == "load"]
    if loads and contracts is None:
        versions = " and ".join(map(str, sorted({row.version for row in loads})))
        evidence = (
            f"rows were looked for and not into: the contract was not given; they were loaded by version {versions}"
        )
        yield AuditFinding("unknown", "rows", None, 0, 0, evidence, GIVE)


def _examined(examination: Examination, pool: ThreadPoolExecutor | None) -> Deep:
    try:
        return examination.run(pool)
    except HeadraceError as exc:
        number = examination.partition.number
        finding = AuditFinding("unknown", "lake", number, 0, 0, f"not all of it could be read: {exc}", "ask again")
        return Deep([*examination.findings, finding], examination.remarks, None, {})

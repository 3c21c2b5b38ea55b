"""Expiring, and being examined, on real S3 servers."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Callable, Iterator

import attrs
import pytest

from headrace.chain import Chain
from headrace.cli.links import links
from headrace.doctor import examine, verdict
from headrace.errors import ExpiredError
from headrace.expire import DAY_S, Expire
from headrace.flush import FlushPolicy
from headrace.pipeline import Pipeline
from headrace.plugins.lake.remote import RemoteStore
from headrace.plugins.lake.s3_doctor import rules_that_harm
from headrace.plugins.lake.sink import LakeSink
from headrace.registry import Registry
from headrace.store import Page
from headrace.testing.log import MemoryLog
from headrace.testing.servers.s3 import S3Endpoint
from headrace.testing.source import MemorySource

pytest_plugins = ["headrace.testing.fixtures"]
pytestmark = pytest.mark.services

CLIENTS = ["s3", "s3+obstore"]


@pytest.fixture
def aged(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Make every segment that is listed seem so many seconds older than its server says."""
    listed = RemoteStore.list

    def by(seconds: float) -> None:
        def older(self: RemoteStore, prefix: str, after: str = "") -> Page:
            page = listed(self, prefix, after)
            return Page(
                [attrs.evolve(o, modified_s=o.modified_s - seconds * ("/partition=" in o.key)) for o in page.objects],
                page.truncated,
            )

        monkeypatch.setattr(RemoteStore, "list", older)

    return by


@pytest.mark.parametrize("scheme", CLIENTS)
def test_expire(s3: S3Endpoint, scheme: str, aged: Callable[[float], None]):
    """By the server's own times: what was just put stays; what is old goes, and the newest is left with a note."""
    bucket = s3.bucket()
    log = MemoryLog()
    for _ in range(8):
        log.produce(b"{}")
    with contextlib.closing(Registry.discover().store(s3.uri(f"{bucket}/lake", scheme))) as store:
        source = MemorySource(log=log, hints={}, idle=lambda _: None)
        Pipeline(source=source, sink=LakeSink(store=store), until_end=True, flush=FlushPolicy(records=2)).run()
        before = s3.objects(bucket)

        chain = Chain.open(store, "log")
        (done,) = Expire(chain=chain, older_than_s=DAY_S, without_ledger=True).run()
        assert (0, 0) == (done.end, done.segments)
        assert "seconds ago" in done.stays
        assert before == s3.objects(bucket)

        aged(2 * DAY_S)
        (done,) = Expire(chain=chain, older_than_s=DAY_S, without_ledger=True).run()
        assert (0, 6, 3, "the newest stays") == (done.start, done.end, done.segments, done.stays)
        after = s3.objects(bucket)
        (note,) = after.keys() - before.keys()
        assert f"lake/log/_headrace/expired/partition=0/{0:020}-{6:020}.json" == note
        assert 6 == json.loads(after[note])["records"]
        gone = before.keys() - after.keys()
        assert {f"lake/log/partition=0/{start:020}.jsonl.gz" for start in (0, 2, 4)} == gone
        assert [("expired", 0, 6), ("ok", 6, 8)] == [(link.state, link.start, link.end) for link in links(chain, 0)]
        with pytest.raises(ExpiredError):
            list(chain.walk(0))


@pytest.mark.parametrize("scheme", CLIENTS)
def test_a_bucket_that_is_fit(s3: S3Endpoint, scheme: str):
    """Everything is tried out, and nothing is left in the bucket; no secret is told."""
    bucket = s3.bucket()
    found = examine(Registry.discover(), s3.uri(f"{bucket}/lake", scheme))
    assert [] == [f for f in found.findings if f.state != "fine"]
    assert {"list", "conditional create", "clock"} <= {f.subject for f in found.findings}
    assert {} == s3.objects(bucket)
    assert s3.secret_key not in repr(found)


@pytest.mark.parametrize("scheme", CLIENTS)
@pytest.mark.parametrize("wrong", ["bucket", "secret", "address"])
def test_what_is_wrong_is_said(s3: S3Endpoint, scheme: str, wrong: str):
    """A bucket that is not there, a wrong secret, nobody at the address: each with what to do, and no secret."""
    bucket = s3.bucket()
    if wrong == "secret":
        s3 = attrs.evolve(s3, secret_key=secrets.token_hex(16))
    elif wrong == "address":
        s3 = attrs.evolve(s3, url="http://127.0.0.1:9")
    place = f"{bucket}-not" if wrong == "bucket" else bucket
    found = examine(Registry.discover(), s3.uri(place, scheme, connect_timeout_s="1", retry_reads_s="0"))
    assert 1 == verdict([found])
    assert all(f.advice for f in found.findings if f.state != "fine")
    assert s3.secret_key not in repr(found)


def test_a_lifecycle_rule_is_found(s3_server: S3Endpoint):
    """One that deletes by age would take an idle partition's whole chain; one for another prefix harms nothing."""
    bucket = s3_server.bucket()
    rule = {"ID": "tidy", "Status": "Enabled", "Filter": {"Prefix": "lake/"}, "Expiration": {"Days": 30}}
    with contextlib.closing(s3_server.client()) as client:
        client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [rule]})
    registry = Registry.discover()
    (finding,) = [f for f in examine(registry, s3_server.uri(f"{bucket}/lake")).findings if f.state != "fine"]
    assert ("lifecycle rule tidy", "it deletes objects under 'lake/' by age") == (finding.subject, finding.found)
    assert 0 == verdict([examine(registry, s3_server.uri(f"{bucket}/other"))])


@pytest.mark.parametrize(
    ("rule", "harms"),
    [
        ({"Prefix": "", "Expiration": {"Days": 1}}, True),
        ({"Filter": {}, "Expiration": {"Date": "2030-01-01"}}, True),
        ({"Filter": {"And": {"Prefix": "lake/trades/", "ObjectSizeGreaterThan": 9}}, "Expiration": {"Days": 1}}, True),
        ({"Filter": {"Prefix": "la"}, "Transitions": [{"Days": 1, "StorageClass": "GLACIER"}]}, True),
        ({"Filter": {"Prefix": "la"}, "Transitions": [{"Days": 1, "StorageClass": "STANDARD_IA"}]}, False),
        ({"Filter": {"Prefix": "lakes/"}, "Expiration": {"Days": 1}}, False),
        ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}, "Expiration": {"Days": 1}}, False),
        ({"Filter": {"Prefix": "lake/t/_headrace/probes/"}, "Expiration": {"Days": 1}}, False),
        ({"Filter": {}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}, False),
        ({"Filter": {}, "Expiration": {"ExpiredObjectDeleteMarker": True}}, False),
        ({"Filter": {}, "Expiration": {"Days": 1}, "Status": "Disabled"}, False),
    ],
)
def test_which_rules_harm(rule: dict[str, object], harms: bool):
    """Those that delete or archive what is current, where a lake is."""
    assert harms == bool(list(rules_that_harm([{"Status": "Enabled", **rule}], "lake/")))

"""`headrace.airflow` with Airflow: connections become URIs, verdicts become a task's end, errors become retries or none."""

from __future__ import annotations

import json

import attrs
import pytest

from conftest import SECRET
from headrace import URI, ConfigError, Registry, SinkUnavailableError, TransientError
from headrace.airflow import must_be_complete, retry_policy, uri
from headrace.demo.contracts import Trade

SNOWFLAKE = {
    "conn_type": "snowflake",
    "login": "LOADER@here",
    "password": f"{SECRET}/@?#%:",
    "schema": "SILVER",
    "extra": {"account": "org-name", "database": "MARKET", "warehouse": "LOADING", "role": "LOADER", "region": ""},
}


@pytest.fixture
def connection(monkeypatch):
    """Make a connection of these fields; return its id."""

    def make(**fields):
        monkeypatch.setenv("AIRFLOW_CONN_HEADRACE_IT", json.dumps({"conn_type": "generic", **fields}))
        return "headrace_it"

    return make


def test_uri(connection):
    """Login and password are put into the URI, encoded; settings are joined, and those of the call win."""
    extra = {"uri": "s3://bucket/lake?region=us-east-1", "settings": {"table": "t", "sasl.password": "a&b=c"}}
    found = URI.parse(uri(connection(login="KEY", password="S/@?#%:", extra=extra), {"table": "trades"}))
    assert ("s3", "bucket", "/lake", "KEY", "S/@?#%:") == (*attrs.astuple(found)[:3], found.user, found.password)
    assert found.settings == {"region": "us-east-1", "table": "trades", "sasl.password": "a&b=c"}
    assert uri(connection(extra={"uri": "file:///lake"})) == "file:///lake"


def test_password_alone(connection):
    """A password without a login is a password all the same, and is hidden as one."""
    found = URI.parse(uri(connection(password=SECRET, extra={"uri": "s3://bucket/lake"})))
    assert ("", SECRET) == (found.user, found.password)
    assert SECRET not in str(found)


def test_snowflake(connection):
    """A connection as Airflow's own provider writes it makes the loader; nothing secret of it is shown."""
    made = uri(connection(**SNOWFLAKE), {"table": "trades"})
    loader = Registry.discover().loader(made, Trade)
    account = loader.account
    assert ("org-name", "LOADER@here", SNOWFLAKE["password"]) == (account.account, account.user, account.password)
    assert ("LOADING", "LOADER", "MARKET.SILVER.TRADES") == (account.warehouse, account.role, loader.where)
    assert SECRET not in f"{URI.parse(made)} {URI.parse(made)!r} {loader!r}"


def test_snowflake_key(connection):
    """Beside a key's file the password is the key's."""
    with_key = {**SNOWFLAKE, "extra": {**SNOWFLAKE["extra"], "private_key_file": "/keys/loader.p8"}}
    found = URI.parse(uri(connection(**with_key), {"table": "trades"}))
    assert ("", SNOWFLAKE["password"]) == (found.password, found.settings["private_key_passphrase"])
    assert SECRET not in str(found)


@pytest.mark.parametrize(
    "fields",
    [{"extra": {"sasl.password": SECRET}}, {**SNOWFLAKE, "schema": ""}],
    ids=["no uri", "no schema"],
)
def test_no_place(connection, fields):
    """A connection that names no place is told of, by its id and the names in it."""
    with pytest.raises(ConfigError, match="'headrace_it' is of type") as caught:
        uri(connection(**fields))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "action"),
    [
        (SinkUnavailableError("away"), "retry"),
        (TransientError("away"), "retry"),
        (ConfigError("wrong"), "fail"),
        (OSError("any"), "default"),
    ],
    ids=["sink", "transient", "config", "other"],
)
def test_retries(error, action):
    """What may pass is tried again; what stays wrong is not; what is not headrace's is left to the task."""
    assert action == retry_policy().evaluate(error, 1, 3, {}).action.value


def test_gate():
    """What is wrong fails the task at once and tells of every result; what could not be told may be retried."""
    from airflow.sdk.exceptions import AirflowFailException

    @attrs.frozen
    class Result:
        stream: str
        verdict: str
        findings: tuple[str, ...] = ()

    good, wrong, dark = (
        Result("trades", "complete"),
        Result("bars", "incomplete", ("a gap",)),
        Result("quotes", "unknown"),
    )
    must_be_complete(good)
    with pytest.raises(AirflowFailException, match="bars: is not complete:\na gap"):
        must_be_complete(good, dark, wrong)
    with pytest.raises(RuntimeError, match="quotes: it could not be told"):
        must_be_complete(good, dark)

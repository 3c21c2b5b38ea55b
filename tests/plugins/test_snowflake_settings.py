"""What a Snowflake loader is made of, and what it makes of the connector's errors: no server is needed."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import attrs
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from snowflake.connector import errors

from headrace.cli.app import run
from headrace.contract import Contract, column, contract
from headrace.errors import CommitUnknownError, ConfigError, SinkUnavailableError
from headrace.plugins.snowflake import views
from headrace.plugins.snowflake.account import Account
from headrace.plugins.snowflake.alter import changes
from headrace.plugins.snowflake.answers import committing, is_loss, refused_login, told
from headrace.plugins.snowflake.doctor import grants
from headrace.plugins.snowflake.loader import SnowflakeLoader
from headrace.plugins.snowflake.tables import LINEAGE, Tables, differences, statements
from headrace.registry import Registry
from headrace.typed.alter import Found
from headrace.uri import URI

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
DER = KEY.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"phrase")
)


@contract(version=3, key=("symbol",), order=("size",), cluster=("symbol",))
class Row:
    """
    It's a row with a \\ in its comment.

    Attributes:
        size: It's how many.
    """

    symbol: str
    size: int


pytestmark = pytest.mark.usefixtures("logging_restored")


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNT", "USER", "PASSWORD", "TOKEN", "TOKEN_FILE", "PRIVATE_KEY_FILE", "ROLE", "WAREHOUSE"):
        monkeypatch.delenv(f"SNOWFLAKE_{name}", raising=False)


def made(uri: str) -> SnowflakeLoader:
    return SnowflakeLoader.from_uri(URI.parse(uri), Registry.discover(), contract=Row)


def test_uri():
    """It names account, database, schema and table; the rest are settings of the account or of the loader."""
    loader = made(
        "snowflake://ann:s3cret@acme-one/silver/market?table=trades&warehouse=W&role=R&lock_timeout_s=5s&run=x"
    )
    assert (loader.database, loader.schema, loader.target, loader.run) == ("silver", "market", "TRADES", "x")
    assert loader.lock_timeout_s == 5
    assert loader.account.settings() == {
        "account": "acme-one",
        "user": "ann",
        "password": "s3cret",
        "role": "R",
        "warehouse": "W",
    }
    assert "s3cret" not in repr(loader)


@pytest.mark.parametrize(
    "uri",
    [
        "snowflake://acme/silver?table=t",
        "snowflake://acme/silver/market",
        "snowflake://acme/silver/market?table=_t",
        "snowflake://acme/silver/market?table=headrace_t",
        "snowflake://acme/silver/market?table=t&warehose=W",
    ],
)
def test_uri_that_cannot_be_meant(uri: str):
    """It is refused before anything is connected to."""
    with pytest.raises(ConfigError):
        made(uri)


def test_settings_are_listed(capsys: pytest.CaptureFixture[str]):
    """Those of the account with those of the loader; each can be set by a URI, and bytes and what the host says cannot."""
    assert run(["plugins", "snowflake", "--json"]) == 0
    (component,) = json.loads(capsys.readouterr().out)["components"]
    names = {setting["name"] for setting in component["settings"]}
    assert names >= {"warehouse", "role", "connection", "private_key_file", "token_file", "lock_timeout_s", "run"}
    assert not names & {"account", "user", "private_key"}
    for name in names - {"database", "schema", "target"}:
        made(f"snowflake://acme/silver/market?table=t&{name}=1")


def test_no_account():
    """Without an account there is nothing to connect to, and the message says how to name one."""
    with pytest.raises(ConfigError, match="SNOWFLAKE_ACCOUNT"):
        Account().settings()


@pytest.mark.parametrize("how", ["file", "bytes", "der"])
def test_key_pair(how: str, tmp_path: Path):
    """A key comes from a file or as bytes, in PEM or DER, and reaches the connector without its passphrase."""
    (tmp_path / "key.p8").write_bytes(PEM)
    given = {
        "file": {"private_key_file": str(tmp_path / "key.p8"), "private_key_passphrase": "phrase"},
        "bytes": {"private_key": PEM, "private_key_passphrase": "phrase"},
        "der": {"private_key": DER},
    }[how]
    account = Account(account="a", user="u", **given)
    assert account.settings() == {"account": "a", "user": "u", "private_key": DER}
    assert "phrase'" not in repr(account)
    assert "BEGIN" not in repr(account)


@pytest.mark.parametrize("phrase", ["", "wrong"])
def test_wrong_passphrase(phrase: str):
    """It is said without the passphrase."""
    with pytest.raises(ConfigError, match="wrong passphrase"):
        Account(account="a", private_key=PEM, private_key_passphrase=phrase).settings()


def test_token(tmp_path: Path):
    """A file with a token is read at each connection; a JSON Web Token is of OAuth, another one a programmatic one."""
    (tmp_path / "token").write_text("aaa.bbb.ccc\n")
    account = Account(account="a", token_file=str(tmp_path / "token"))
    assert account.settings() == {"account": "a", "token": "aaa.bbb.ccc", "authenticator": "oauth"}
    (tmp_path / "token").write_text("programmatic")
    assert account.settings()["authenticator"] == "PROGRAMMATIC_ACCESS_TOKEN"


def test_environment(monkeypatch: pytest.MonkeyPatch):
    """It fills what is empty; another way to show who one is, or a named connection, puts it aside."""
    monkeypatch.setenv("SNOWFLAKE_ACCOUNT", "acme")
    monkeypatch.setenv("SNOWFLAKE_USER", "ann")
    monkeypatch.setenv("SNOWFLAKE_PASSWORD", "secret")
    assert Account().settings() == {"account": "acme", "user": "ann", "password": "secret"}
    assert Account(user="bob", private_key=DER).settings() == {"account": "acme", "user": "bob", "private_key": DER}
    assert Account(connection="loading").settings() == {"connection_name": "loading"}


@pytest.mark.parametrize(
    ("error", "expected", "lost"),
    [
        (errors.ProgrammingError("x", errno=625), SinkUnavailableError, False),
        (errors.ProgrammingError("x", errno=630), SinkUnavailableError, False),
        (errors.ProgrammingError("x", errno=90073), SinkUnavailableError, False),
        (errors.ProgrammingError("x", errno=390114), SinkUnavailableError, True),
        (errors.OperationalError("x", errno=250003), SinkUnavailableError, True),
        (errors.DatabaseError("x", errno=250001), SinkUnavailableError, True),
        (errors.InterfaceError("x", errno=290503), SinkUnavailableError, True),
        (errors.ProgrammingError("x", errno=606), ConfigError, False),
        (errors.ProgrammingError("x", errno=2003), ConfigError, False),
        (errors.ProgrammingError("x", errno=3001), ConfigError, False),
    ],
    ids=lambda value: str(getattr(value, "errno", "")),
)
def test_answers(error: errors.Error, expected: type[Exception], lost: bool):
    """By its number an error is one to try again, or one to mend; and it tells whether the session is of use."""
    assert type(told(error, "here")) is expected
    assert is_loss(error) is lost


def test_refused_login():
    """Who is not let in has to mend something; a service that does not answer may be back."""
    assert isinstance(refused_login(errors.DatabaseError("x", errno=390100), "here"), ConfigError)
    assert isinstance(refused_login(errors.OperationalError("x", errno=14), "here"), SinkUnavailableError)


def test_commit():
    """Whatever goes wrong there, it may have happened."""
    with pytest.raises(CommitUnknownError), committing("here"):
        raise errors.ProgrammingError("x", errno=625)


def test_definitions():
    """Comment and clustering come from the contract; names are in capitals; each statement can be repeated."""
    found = statements(Tables("TRADES"), Contract.of(Row))
    assert all(" IF NOT EXISTS " in statement for statement in found.values())
    rows = found['"TRADES"']
    assert rows.endswith("""CLUSTER BY ("SYMBOL") COMMENT = 'It''s a row with a \\\\ in its comment.'""")
    assert """"SIZE" NUMBER(19,0) NOT NULL COMMENT 'It''s how many.'""" in rows


def test_another_table():
    """A table that would round or refuse is told from the contract's, column by column."""
    columns = [
        Found("SYMBOL", "VARCHAR(10)", False, False),
        Found("SIZE", "NUMBER(5,0)", False, False),
        Found("X", "VARCHAR", False, False),
    ]
    told_of = differences(Contract.of(Row), columns)
    assert "column SIZE is NUMBER(5,0) NOT NULL, expected NUMBER(19,0) NOT NULL" in told_of
    assert "column X is NOT NULL, and the contract has no such column" in told_of


@contract(version=2)
class Altered:
    """
    A newer one.

    Attributes:
        venue: It's where.
    """

    symbol: str
    short: str = column(max_length=10)
    long: str = column(max_length=11)
    size: Decimal | None = column(precision=30, scale=0)
    price: Decimal = column(precision=20, scale=4)
    finer: Decimal = column(precision=30, scale=5)
    venue: str | None
    lot: int = column(default=100)
    tick: Decimal = column(precision=10, scale=4, default="0.5")
    open: bool = column(default=True)
    since: datetime = column(default=datetime(2024, 1, 2, 3, 4, 5, 6, tzinfo=UTC))
    kind: str = column(default="it's \\")
    flags: list[str] = column(default=[])
    broker: str


def test_changes():
    """What the service can alter is a statement that can be said again; what it cannot is said in words, with its types."""
    found = [
        Found("SYMBOL", "VARCHAR(16777216)", False, False),
        Found("SHORT", "VARCHAR(10)", False, False),
        Found("LONG", "VARCHAR(10)", False, False),
        Found("SIZE", "NUMBER(19,0)", False, False),
        Found("PRICE", "NUMBER(30,4)", False, False),
        Found("FINER", "NUMBER(28,4)", False, False),
        Found("NOTE", "VARCHAR(16777216)", False, False),
        *(Found(name, "VARCHAR(16777216)", False, False) for name in LINEAGE),
    ]
    told_of = changes(Tables("T"), Contract.of(Altered), found)
    alter = 'ALTER TABLE "T"'
    assert [change.statement for change in told_of if change.statement] == [
        f'{alter} ALTER COLUMN "LONG" SET DATA TYPE VARCHAR(16777216)',
        f'{alter} ALTER COLUMN "SIZE" SET DATA TYPE NUMBER(30,0)',
        f'{alter} ALTER COLUMN "SIZE" DROP NOT NULL',
        f"{alter} ADD COLUMN IF NOT EXISTS \"VENUE\" VARCHAR COMMENT 'It''s where.'",
        f'{alter} ADD COLUMN "LOT" NUMBER(19,0) DEFAULT 100',
        f'{alter} ADD COLUMN "TICK" NUMBER(10,4) DEFAULT 0.5000',
        f'{alter} ADD COLUMN "OPEN" BOOLEAN DEFAULT TRUE',
        f"{alter} ADD COLUMN \"SINCE\" TIMESTAMP_NTZ(9) DEFAULT '2024-01-02 03:04:05.000006000'::TIMESTAMP_NTZ(9)",
        f"{alter} ADD COLUMN \"KIND\" VARCHAR DEFAULT 'it''s \\\\'",
        f'{alter} ALTER COLUMN "NOTE" DROP NOT NULL',
    ]
    assert [change.what for change in told_of if not change.statement] == [
        "column PRICE is NUMBER(30,4), and the contract says NUMBER(20,4), which cannot take its place",
        "column FINER is NUMBER(28,4), and the contract says NUMBER(30,5), which cannot take its place",
        "column FLAGS is not there, and a VARIANT cannot be added with a default",
        "column BROKER is not there and may not be null, and rows that are there have no value for it",
    ]


def test_views():
    """One that is as it should be is left alone; each other one is made in one step that leaves its readers their rights."""
    tables, kept = Tables("T"), Contract.of(Row)
    first = views.statements(tables, kept, ["T"], {})
    assert [s.startswith('CREATE VIEW IF NOT EXISTS "T_CURRENT" (') for s in first] == [True]
    comment = first[0].partition("COMMENT = '")[2].partition("'")[0]
    assert views.statements(tables, kept, ["T"], {'"T_CURRENT"': comment}) == []
    wider = attrs.evolve(kept, columns=(attrs.evolve(kept.columns[0], comment="more"), *kept.columns[1:]))
    for contract_, readers, there in (
        (wider, ["T"], {'"T_CURRENT"': comment}),
        (kept, ["T"], {'"T_CURRENT"': ""}),
        (kept, ["OLD"], {'"OLD_CURRENT"': "What is there now of OLD, made by headrace [0123456789ab]"}),
    ):
        (again,) = views.statements(tables, contract_, readers, there)
        assert again.startswith(f'CREATE OR REPLACE VIEW "{readers[0]}_CURRENT" (')
        assert ") COPY GRANTS COMMENT = " in again
        assert ' FROM "T" WHERE NOT "_DELETED"' in again


def test_grants():
    """They name what they are for, and nothing that owns."""
    found = "; ".join(grants("silver", "market", "W", "LOADER"))
    assert "ON SCHEMA SILVER.MARKET TO ROLE LOADER" in found
    assert "OWNERSHIP" not in found

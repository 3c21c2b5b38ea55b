"""`headrace.airflow` where there is no Airflow: what it does with one, `nox -s airflow` tests in Airflow's own environment."""

from __future__ import annotations

import sys

import pytest

from headrace import MissingExtraError
from headrace.airflow import must_be_complete, retry_policy, uri


@pytest.fixture(autouse=True)
def _no_airflow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "airflow", None)


@pytest.mark.parametrize("call", [lambda: uri("lake"), retry_policy], ids=["uri", "retry_policy"])
def test_extra_is_named(call):
    """Without Airflow the functions say which extra brings it."""
    with pytest.raises(MissingExtraError, match=r"pip install 'headrace\[airflow\]'"):
        call()


def test_gate_without_airflow():
    """Where nothing is wrong the gate needs no Airflow."""
    must_be_complete()

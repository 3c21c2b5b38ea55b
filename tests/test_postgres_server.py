"""The PostgreSQL of the tests takes its copy and its data away, however it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.testing.servers import postgres
from headrace.testing.servers.cache import ServerMissing


def test_one_that_cannot_begin_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where initdb fails nobody stops it: its copy of the programs, and the password, are gone all the same."""
    there, home = tmp_path / "programs", tmp_path / "home"
    (there / "bin").mkdir(parents=True)
    (there / "bin/initdb").write_text("#!/bin/sh\nexit 1\n")
    (there / "bin/initdb").chmod(0o755)
    monkeypatch.setattr(postgres, "programs", lambda: there)
    monkeypatch.setattr(postgres.tempfile, "mkdtemp", lambda **_: home.mkdir() or str(home))
    with pytest.raises(ServerMissing), postgres.Postgres(folder=tmp_path / "log"):
        pass
    assert not home.exists()

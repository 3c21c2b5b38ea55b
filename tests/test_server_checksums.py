"""What the kit fetches for its servers is what it was when its checksum was written down, or it is not used."""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from headrace.testing.servers import kafka, minio, postgres, snowflake, toxiproxy, versity
from headrace.testing.servers.cache import NotWhatWasPinnedError, ServerMissing, verify_file, verify_files

REFUSED = "THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE"


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Puts a program of Python's in front of all others, which begins with *words*; what it is called with is told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))

    def make(name: str, body: str) -> Path:
        told = f"open({str(tmp_path / 'told')!r}, 'a').write(' '.join([{name!r}, *sys.argv[1:]]) + '\\n')"
        text = f"#!{sys.executable}\nimport json, os, pathlib, shutil, sys\n{told}\n{body}\n"
        (folder / name).write_text(text, encoding="utf-8")
        (folder / name).chmod(0o755)
        return folder / name

    return make


def told(tmp_path: Path) -> list[str]:
    """The calls of the programs, in their order."""
    return (tmp_path / "told").read_text(encoding="utf-8").splitlines()


def nothing_is_kept(tmp_path: Path) -> None:
    assert [] == [path for path in (tmp_path / "cache").iterdir() if path.is_dir()]


@pytest.mark.parametrize("binary", [minio.binary, toxiproxy.binary, versity.binary], ids=lambda b: b.__module__)
def test_a_go_module(program: Callable[[str, str], Path], tmp_path: Path, binary: Callable[[], Path]):
    """Of a module with another digest nothing is built."""
    program("go", "print(json.dumps({'Sum': 'h1:another=', 'Dir': '/'}))")
    with pytest.raises(NotWhatWasPinnedError, match=r"found h1:another=, expected h1:\S{44}; it is not used"):
        binary()
    [call] = told(tmp_path)
    assert call.startswith("go mod download -json github.com/")
    nothing_is_kept(tmp_path)


def test_a_go_module_that_is_right(program: Callable[[str, str], Path], tmp_path: Path):
    """It is built from what was downloaded, by its own go.sum."""
    digest = toxiproxy._DIGEST
    build = "pathlib.Path(sys.argv[sys.argv.index('-o') + 1]).touch()"
    program("go", f"print(json.dumps({{'Sum': {digest!r}, 'Dir': '/there'}})) if sys.argv[1] == 'mod' else {build}")
    assert toxiproxy.binary().exists()
    assert "go build -C /there -buildvcs=false" in told(tmp_path)[1]


def test_the_browser(program: Callable[[str, str], Path], tmp_path: Path):
    """A package with other bytes is not unpacked."""
    pytest.importorskip("websockets")
    from headrace.testing.servers import chromium  # noqa: PLC0415 - an extra is needed for it alone

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/bin/chromium.br"))
    (tmp_path / "package.tgz").write_bytes(packed.getvalue())
    program("npm", f"shutil.copy({str(tmp_path / 'package.tgz')!r}, 'sparticuz-chromium.tgz')")
    program("node", "")
    program("tar", "")
    with pytest.raises(NotWhatWasPinnedError, match=r"sparticuz-chromium\.tgz: found sha512-\S+, expected sha512-4ZKe"):
        chromium.folder()
    assert ["npm"] == [call.split()[0] for call in told(tmp_path)]
    nothing_is_kept(tmp_path)


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "riscv64"])
def test_postgres(program: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str):
    """A jar with other bytes is not unpacked; and where there is none for a processor, that is said."""
    monkeypatch.setattr("platform.machine", lambda: machine)
    kind = {"x86_64": "amd64", "aarch64": "arm64v8"}.get(machine, "")
    jar = f"embedded-postgres-binaries-linux-{kind}-{postgres.VERSION}.jar"
    program("mvn", f"os.mkdir('jars'); pathlib.Path('jars', {jar!r}).write_bytes(b'another')")
    if not kind:
        with pytest.raises(ServerMissing, match="no PostgreSQL for riscv64; there is one for x86_64, aarch64"):
            postgres.programs()
        return
    digest = {"x86_64": "Ww4Kgv3C", "aarch64": "thC[+]5KVN"}[machine]
    with pytest.raises(NotWhatWasPinnedError, match=rf"{jar}: found sha512-\S+, expected sha512-{digest}"):
        postgres.programs()
    nothing_is_kept(tmp_path)


@pytest.mark.parametrize("wrong", ["another", "missing", "one more", "nothing"])
def test_jars(program: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: str):
    """A jar with other bytes is refused, and so is one that is missing, or one more; and none is kept."""
    names = [line.split()[1] for line in kafka._CHECKSUMS.read_text(encoding="utf-8").splitlines()]
    assert len(names) > 90
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in names}
    (tmp_path / "jars").mkdir()
    for name in digests:
        (tmp_path / "jars" / name).write_text(name, encoding="utf-8")
    jar = tmp_path / "jars" / "kafka_2.13-4.1.0.jar"
    if wrong == "another":
        jar.write_bytes(b"another")
    elif wrong == "missing":
        jar.unlink()
    elif wrong == "one more":
        (tmp_path / "jars" / "more.jar").touch()
    pinned = tmp_path / "pinned.sha256"
    pinned.write_text("".join(f"{digest}  {name}\n" for name, digest in digests.items()), encoding="utf-8")
    monkeypatch.setattr(kafka, "_CHECKSUMS", pinned)
    program("java", "")
    program("mvn", f"shutil.copytree({str(tmp_path / 'jars')!r}, 'libs')")
    if wrong == "nothing":
        assert (kafka.jars() / "libs" / jar.name).exists()
        return
    says = {
        "another": r"kafka_2\.13-4\.1\.0\.jar: found [0-9a-f]{64}, expected [0-9a-f]{64}",
        "missing": r"kafka_2\.13-4\.1\.0\.jar: found no file, expected [0-9a-f]{64}",
        "one more": "more.jar: found [0-9a-f]{64}, expected no file",
    }
    with pytest.raises(NotWhatWasPinnedError, match=says[wrong]):
        kafka.jars()
    nothing_is_kept(tmp_path)


def test_python_packages(program: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """pip is told to take what the lock has, by its checksums, and to build nothing; what it refuses is no reason to skip."""
    venv = "shutil.copy(__file__, pathlib.Path(sys.argv[3], 'bin', 'python'))"
    body = f"if sys.argv[2] == 'venv':\n os.makedirs(sys.argv[3] + '/bin')\n {venv}\nelse:\n sys.exit({REFUSED!r})"
    monkeypatch.setattr(sys, "executable", str(program("python", body)))
    with pytest.raises(NotWhatWasPinnedError, match=REFUSED):
        snowflake.python()
    assert f"--require-hashes --only-binary=:all: -r {snowflake._LOCK}" in told(tmp_path)[-1]
    nothing_is_kept(tmp_path)
    lock = snowflake._LOCK.read_text(encoding="utf-8").replace("\\\n", "")
    packages = [line for line in lock.splitlines() if line and not line.startswith("#")]
    assert len(packages) > 30
    assert [] == [line for line in packages if not re.match(r"[\w.-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)]


def test_files_that_are_right(tmp_path: Path):
    """What has the checksum that was written down is taken."""
    (tmp_path / "a").write_bytes(b"abc")
    empty = "z4PhNX7vuL3xVChQ1m2AB9Yg5AULVxXcg/SpIdNs6c5H0NE8XYXysP+DGNKHfuwvY7kxvUdBeoGlODJ6+SfaPg=="
    (tmp_path / "b").write_bytes(b"")
    verify_file(tmp_path / "b", f"sha512-{empty}")
    lines = [f"{hashlib.sha256(body).hexdigest()}  {name}" for name, body in (("a", b"abc"), ("b", b""))]
    pinned = tmp_path.parent / f"{tmp_path.name}.sha256"
    pinned.write_text("\n".join(lines), encoding="utf-8")
    verify_files(tmp_path, pinned)

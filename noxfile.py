"""Everything that a person runs to check headrace: `nox -l` lists it, `nox -s tests` runs a part of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = False
nox.options.sessions = ["lint", "typing", "tests", "docs"]

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)

PLUGINS = sorted(folder.name for folder in ROOT.glob("examples/plugin-*"))

EXTRAS = {
    "none": "testing",
    "all": "all,testing",
}
"""Sets of extras; with "none" the core must stand alone, and whatever needs a client library skips."""


def group(name: str) -> list[str]:
    """The tools of a dependency group."""
    return nox.project.dependency_groups(PROJECT, name)


def wheel(session: nox.Session) -> str:
    """Build the wheel and return its path: what the tests install is what users install."""
    out = Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(out, ignore_errors=True)
    session.install(*group("build"))
    session.run("python", "-m", "build", "--wheel", "--outdir", str(out), str(ROOT), silent=True)
    (built,) = out.glob("*.whl")
    return str(built)


def install(session: nox.Session, extras: str) -> None:
    """Install the built wheel with these extras, afresh: a version number does not change with every commit."""
    built = wheel(session)
    session.install("--force-reinstall", "--no-deps", built)
    session.install(f"headrace[{extras}] @ {Path(built).as_uri()}")


@nox.session(tags=["check"])
def lint(session: nox.Session) -> None:
    """Style, layers, spelling."""
    session.install(*group("lint"), ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", env={"PYTHONPATH": "src"})
    session.run("codespell")


@nox.session(tags=["check"])
def typing(session: nox.Session) -> None:
    """Types, strictly, with every client library there."""
    session.install(*group("typing"), ".[all,testing]")
    session.run("mypy", *session.posargs)


@nox.session(python=PYTHONS)
@nox.parametrize("extras", list(EXTRAS), ids=list(EXTRAS))
def tests(session: nox.Session, extras: str) -> None:
    """All tests that need no server, on the built wheel, over sets of extras."""
    install(session, EXTRAS[extras])
    session.install(*group("tests"))
    session.run("python", "-m", "pytest", "-n", "auto", "--dist", "loadfile", "-m", "not services", *session.posargs)


@nox.session
def services(session: nox.Session) -> None:
    """The tests that need real servers: Kafka, S3."""
    install(session, EXTRAS["all"])
    session.run("python", "-m", "pytest", "-m", "services", *session.posargs)


@nox.session
def connector4(session: nox.Session) -> None:
    """The tests against Snowflake, with the last connector that is written in Python."""
    install(session, EXTRAS["all"])
    session.install("snowflake-connector-python>=4.8,<5")
    session.run("python", "-m", "pytest", *(session.posargs or ("tests/services/test_snowflake.py",)))


@nox.session
def chaos(session: nox.Session) -> None:
    """Break real brokers and lakes at random for as long as asked: `nox -s chaos -- --minutes 60`."""
    install(session, EXTRAS["all"])
    session.run("python", "tests/chaos/run.py", *session.posargs)


@nox.session
def live(session: nox.Session) -> None:
    """Carry a feed from a local exchange to silver while everything breaks: `nox -s live -- --minutes 60`."""
    install(session, EXTRAS["all"])
    session.run("python", "tests/live/run.py", *session.posargs)


@nox.session
def kills(session: nox.Session) -> None:
    """Kill a load of real ticks ten times: `nox -s kills -- 'duckdb:///tmp/w.duckdb?table={table}' --data FOLDER`."""
    install(session, EXTRAS["all"])
    session.run("python", "tests/kill/silver.py", "run", session.create_tmp(), *session.posargs)


@nox.session
@nox.parametrize("plugin", PLUGINS, ids=PLUGINS)
def plugins(session: nox.Session, plugin: str) -> None:
    """The plugins in examples/ as strangers have them: from their own wheels, with headrace's, and their own tests."""
    folder, out = ROOT / "examples" / plugin, Path(session.create_tmp()).resolve() / "dist"
    shutil.rmtree(out, ignore_errors=True)
    session.install(*group("build"), "hatchling>=1.26")
    for project in (ROOT, folder):
        session.run(
            "python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(project), silent=True
        )
    mine, ours = sorted(out.glob("*.whl"), key=lambda path: path.name.startswith("headrace-"))
    session.install("--force-reinstall", "--no-deps", str(ours), str(mine))
    session.install(f"headrace[testing] @ {ours.as_uri()}", f"{mine.name.split('-')[0]}[test] @ {mine.as_uri()}")
    session.chdir(folder)
    session.run("python", "-m", "pytest", "-p", "no:cacheprovider", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """The demo, on the built wheel."""
    install(session, "all")
    session.run("headrace", "demo", *session.posargs)


@nox.session
def airflow(session: nox.Session) -> None:
    """The example DAGs, in Airflow's own environment; `-- --standalone` with its scheduler, which is killed, among others."""
    session.install("-r", "tests/airflow/lock")
    session.install("--no-deps", "--force-reinstall", wheel(session))
    if "HEADRACE_AIRFLOW_SHOTS" in os.environ:
        session.install("playwright==1.65.2")
    which = ("test_standalone.py",) if "--standalone" in session.posargs else ("test_connections.py", "test_dags.py")
    more = [word for word in session.posargs if word != "--standalone"]
    tests = [f"tests/airflow/{name}" for name in which]
    session.run("python", "-m", "pytest", "-c", "tests/airflow/pytest.ini", *tests, *more)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages; a broken link fails. `-- serve` shows them while one writes, `-- zensical` builds them with Zensical."""
    session.install(*group("docs"))
    if "zensical" in session.posargs:
        session.install(*group("zensical"))
        session.run("zensical", "build", "--strict", "-f", "docs/mkdocs.yml")
        return
    command = "serve" if "serve" in session.posargs else "build"
    session.run("mkdocs", command, "--strict", "-f", "docs/mkdocs.yml", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def compose(session: nox.Session) -> None:
    """
    Dockerfile and docker-compose.yml: linters, the Compose specification's schema, facts of ours; then the image's steps and the
    pipeline's commands without Docker. `-- --airflow`: the steps of Airflow's image as well, with its scheduler and its DAGs.
    """
    install(session, "market,s3,testing")
    session.install(*group("compose"))
    session.run("hadolint", "--failure-threshold", "style", "Dockerfile")
    session.run("shellcheck", ".ci/run")
    session.run("python", "docker/relock.py", "--check")
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml")
    airflow = "--airflow" in session.posargs
    more = [word for word in session.posargs if word != "--airflow"]
    session.run("python", "-m", "pytest", "tests/test_compose.py", *more)
    image = "tests/image/test_airflow.py" if airflow else "tests/image/test_image.py"
    session.run("python", "-m", "pytest", "-c", "tests/image/pytest.ini", image, *more)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure; a table, and JSON that is kept in .bench."""
    install(session, EXTRAS["all"])
    session.run("python", "tests/benchmarks/run.py", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build sdist and wheel into dist/."""
    session.install(*group("build"))
    session.run("python", "-m", "build", "--outdir", "dist", ".")

"""`docker-compose.yml`: servers and a pipeline in containers, for this machine alone. Nothing is started here."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from headrace.testing.servers import kafka, minio, postgres, versity

yaml = pytest.importorskip("yaml", reason="`nox -s compose` brings what reads the file")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"topics", "bucket", "versity-bucket"}
SERVERS = {"kafka", "minio", "postgres", "versity"}
OURS = {"feed", "bronze", "silver", "audit"}
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def test_what_there_is():
    """Servers, what makes what must be there and ends, the pipeline, Airflow; by which profile each is started."""
    assert {*SERVERS, *ONCE, *OURS, "airflow"} == set(SERVICES)
    by_profile = {
        profile: {name for name, service in SERVICES.items() if {profile} & set(service.get("profiles", ["always"]))}
        for profile in ("always", "small", "full", "test", "audit")
    }
    assert by_profile == {
        "always": {"kafka", "minio", "topics", "bucket"},
        "small": {"feed", "bronze", "silver"},
        "full": {"feed", "bronze", "airflow", "postgres"},
        "test": {"versity", "versity-bucket"},
        "audit": {"audit"},
    }


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str):
    """By a tag that says a version, never by one that moves; those that are built here have the project's own."""
    image, _, tag = SERVICES[name]["image"].partition(":")
    assert image
    assert re.fullmatch(r"v?\d+\.\d+(\.\d+)?|RELEASE\.\d{4}-\d\d-\d\dT[\d-]+Z", tag)
    assert ("build" in SERVICES[name]) == image.startswith("headrace")
    if "build" in SERVICES[name]:
        assert PROJECT["version"] == tag


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_has_a_right_that_it_does_not_need(name: str):
    """No capability, no new privileges, bounds of memory and processes; what is ours writes to volumes and memory alone."""
    service = SERVICES[name]
    assert ["ALL"] == service["cap_drop"]
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    if "build" in service:
        assert service["read_only"] is True
        assert service["init"] is True
        assert service["tmpfs"]
        assert service["cpus"]


@pytest.mark.parametrize("name", sorted(OURS))
def test_our_services_have_the_time_to_stop_well(name: str):
    """Half a minute is what a run may take to commit and leave; Compose gives ten seconds unless told."""
    assert "45s" == SERVICES[name]["stop_grace_period"]


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_beyond_the_loopback(name: str):
    """Each port stands behind 127.0.0.1, and no service shares the machine's own network."""
    for port in SERVICES[name].get("ports", []):
        assert re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z_]+:-\d+\}:\d+", port)
    assert "network_mode" not in SERVICES[name]
    assert not SERVICES[name].get("privileged")


def test_secrets_come_from_outside():
    """No secret stands in the file, nor a default for one; without it the message says where to put it."""
    secret = [
        (key, value)
        for service in SERVICES.values()
        for key, value in service.get("environment", {}).items()
        if re.search(r"KEY|SECRET|PASSWORD|USER", key)
    ]
    assert len(secret) == 18
    for key, value in secret:
        assert re.fullmatch(r"\$\{\w+(_KEY|_SECRET|_KEY_ID|_PASSWORD):(-|\?[^}]*\.env[^}]*)\}", value), key
    for said in re.findall(r"\$\{(?:S3_\w+_KEY|AIRFLOW_(?:SECRET|DB_PASSWORD))([^}]*)\}", TEXT):
        assert said == ":?put it into .env, as .env.example shows"
    assert re.search(r"^S3_SECRET_KEY=$", EXAMPLE, re.MULTILINE)
    assert re.search(r"^AIRFLOW_SECRET=$", EXAMPLE, re.MULTILINE)
    assert re.search(r"^AIRFLOW_DB_PASSWORD=$", EXAMPLE, re.MULTILINE)
    assert "/.env" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "!.env" not in (ROOT / ".dockerignore").read_text(encoding="utf-8")
    assert "*" in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()


def test_the_example_has_every_variable():
    """With the default that it has and a comment that explains it, and none that nothing uses."""
    used = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)(?::-([^}]*))?", TEXT))
    assert len(used) == len({name for name, _ in used}), "one variable has two defaults"
    for name, default in used:
        line = f"# {name}={default}" if f"${{{name}:-" in TEXT else f"{name}="
        assert any(said.startswith(line) for said in EXAMPLE.splitlines()), name
    named = set(re.findall(r"(?m)^(?:# )?([A-Z0-9_]+)=", EXAMPLE))
    assert {name for name, _ in used} | {"COMPOSE_PROFILES"} == named
    for paragraph in re.split(r"\n\n+", EXAMPLE.strip()):
        assert paragraph.startswith("# "), f"nothing explains {paragraph}"


def test_the_pages_name_what_there_is():
    """Each `docker compose` of a page is one of Compose's commands, with services and profiles of the file."""
    services = r"(?:run --rm|exec|stop|up -d --scale|logs(?: --tail \d+)?) +([a-z][a-z -]*)"
    found: set[str] = set()
    for page in (ROOT / "docs/pages").glob("*.md"):
        for line in re.findall(r"docker compose ([^`#|&\n]+)", page.read_text(encoding="utf-8")):
            command = re.sub(r"^--profile (\w+) ", "", line)
            assert re.match(r"(up|down|ps|logs|exec|run|build|stop)\b", command), line
            if named := re.match(services, command):
                words = named[1].split()
                found |= set(words[:1] if command.startswith("exec") else words)
    assert {*OURS, "airflow", "topics", "bucket"} <= found <= SERVICES.keys()


def test_what_waits_has_what_it_needs():
    """Whoever reads the log waits for Kafka, whoever reads the lake for its bucket: one that is run alone brings them."""
    for name in sorted({*OURS, "airflow"}):
        text = str({**SERVICES[name], "depends_on": ""})
        needed = {"kafka"} & set(re.findall(r"(kafka):19092", text)) | ({"bucket"} if "minio:9000" in text else set())
        assert needed <= SERVICES[name]["depends_on"].keys(), name


def test_a_feed_gives_back_what_waited():
    """By the C library's allocator: what Python's own one does is shown by a test of the feeds."""
    assert "malloc" == SERVICES["feed"]["environment"]["PYTHONMALLOC"]


def test_topics_are_named_once():
    """Those that are made are those that go to the lake, and the table's stream is one of them."""
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", TEXT))
    assert f"kafka:19092/{SERVICES['topics']['environment']['TOPICS']}?" in SERVICES["bronze"]["command"][1]
    assert defaults["SILVER_STREAM"] in defaults["KAFKA_TOPICS"].split(",")


@pytest.mark.parametrize("name", sorted({*SERVERS, "airflow"}))
def test_servers_say_when_they_are_ready(name: str):
    """A check with bounds, a volume for what is stored, and a start after a reboot."""
    check = SERVICES[name]["healthcheck"]
    assert {"test", "interval", "timeout", "retries", "start_period"} <= check.keys()
    assert SERVICES[name]["volumes"]
    assert {volume.partition(":")[0] for volume in SERVICES[name]["volumes"]} <= COMPOSE["volumes"].keys()
    assert "unless-stopped" == SERVICES[name]["restart"]


@pytest.mark.parametrize("name", sorted(ONCE))
def test_what_is_made_waits_for_its_servers(name: str):
    """And may be made again."""
    assert {"service_healthy"} == {on["condition"] for on in SERVICES[name]["depends_on"].values()}
    assert re.search(r"--if-not-exists|--ignore-existing", SERVICES[name]["command"][0])
    assert "no" == SERVICES[name]["restart"]


# ---- the same as the native servers, which is what is tested ------------------------------------------------------


def test_kafka_is_the_native_one(tmp_path: Path):
    """Version and settings; what differs is where it listens, and that containers have a listener of their own."""
    cluster = kafka.Kafka(folder=tmp_path)
    native = cluster.brokers[0]._properties()
    there = {
        key.removeprefix("KAFKA_").lower().replace("_", "."): value
        for key, value in SERVICES["kafka"]["environment"].items()
    }
    assert kafka.VERSION == SERVICES["kafka"]["image"].partition(":")[2]
    assert f"-Xmx{cluster.brokers[0].heap}" == there.pop("heap.opts")
    assert native.keys() == there.keys(), "a setting that the tests' Kafka has belongs in docker-compose.yml, too"
    different = {key for key in native if native[key] != there[key]}
    assert different <= {
        "controller.quorum.voters",
        "listeners",
        "advertised.listeners",
        "listener.security.protocol.map",
        "inter.broker.listener.name",
        "log.dirs",
    }


def test_kafka_tells_each_side_an_address_that_it_can_reach():
    """This machine the loopback's, at the port that is published; containers the service's name."""
    told = dict(
        address.split("://", 1) for address in SERVICES["kafka"]["environment"]["KAFKA_ADVERTISED_LISTENERS"].split(",")
    )
    (published,) = SERVICES["kafka"]["ports"]
    assert published == f"{told['PLAIN']}:9092"
    assert told["INSIDE"] == "kafka:19092"
    assert "kafka:19092" in SERVICES["kafka"]["healthcheck"]["test"][1]
    assert "kafka:19092" in SERVICES["topics"]["command"][0]


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def test_minio_is_the_native_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The same command and variables; its image is of an earlier commit, the last one that was published."""
    monkeypatch.setattr(minio, "built", lambda *_: Path("minio"))
    server = minio.Minio(folder=tmp_path)
    words, there = server.command(), SERVICES["minio"]
    assert "server" == words[1] == there["command"][0]
    assert option(words, "--address").endswith(f":{server.port}")
    assert ":9000" == option(there["command"], "--address")
    assert server.environment().keys() == there["environment"].keys()
    assert "off" == there["environment"]["MINIO_BROWSER"] == server.environment()["MINIO_BROWSER"]


def test_postgres_is_the_native_one():
    """The version; and Airflow is told of the same password."""
    there = SERVICES["postgres"]
    assert postgres.VERSION == there["image"].partition(":")[2] + ".0"  # the native one counts its own packages
    password = there["environment"]["POSTGRES_PASSWORD"]
    url = f"postgresql+psycopg2://postgres:{password}@postgres:5432/postgres"
    assert url == SERVICES["airflow"]["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]


def test_versity_is_the_native_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Version, options and variables; what differs is the port and the folders."""
    monkeypatch.setattr(versity, "built", lambda *_: Path("versitygw"))
    server = versity.Versity(folder=tmp_path)
    words, there = server.command()[1:], SERVICES["versity"]
    places = {f"127.0.0.1:{server.port}": ":7070", f"{tmp_path}/metadata": "/metadata", f"{tmp_path}/data": "/data"}
    assert [places.get(word, word) for word in words] == there["command"]
    assert versity.VERSION == there["image"].partition(":")[2]
    assert server.environment().keys() == there["environment"].keys()

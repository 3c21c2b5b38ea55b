"""The central logger: one schema for whoever logs, no secrets, and no handler unless asked."""

from __future__ import annotations

import io
import json
import logging
import re
import subprocess
import sys
import warnings

import pytest

pytest.importorskip("structlog")

from headrace.errors import ConfigError
from headrace.logs import configure, event, marked, redacted, run_id
from headrace.sampling import Sampling

LOG = logging.getLogger("headrace.test")


@pytest.fixture(autouse=True)
def _restored():
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level
    logging.captureWarnings(False)


@pytest.fixture
def lines():
    """Configure JSON lines; return a function that gives those that were written."""
    out = io.StringIO()
    configure(format="json", level="debug", run="r1", stream=out)
    return lambda: [json.loads(line) for line in out.getvalue().splitlines()]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_line(lines):
    """An event is one JSON object: time in UTC with milliseconds, level, logger, event, run, then its fields as given."""
    event(LOG, logging.INFO, "segment stored", stream="trades", partition=3, start=42, end=57)
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("ts"))
    assert {
        "level": "info",
        "logger": "headrace.test",
        "event": "segment stored",
        "run": "r1",
        "stream": "trades",
        "partition": 3,
        "start": 42,
        "end": 57,
    } == line
    assert ["level", "logger", "event", "run"] == list(line)[:4]


def test_foreign_logger(lines):
    """A client library's line has the same fields."""
    logging.getLogger("librdkafka").warning("broker %s is down", "b1")
    (line,) = lines()
    assert ("warning", "librdkafka", "broker b1 is down", "r1") == tuple(
        line[n] for n in ("level", "logger", "event", "run")
    )


def test_warning(lines):
    """A warning of Python is a log line, not text between the lines."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    (line,) = lines()
    assert "py.warnings" == line["logger"]
    assert "DeprecationWarning: old" in line["event"]


def test_exception(lines):
    """A traceback is one field, without the secrets that its message holds."""
    try:
        raise ValueError("cannot reach kafka://u:hunter2@h:9092/t")
    except ValueError:
        LOG.exception("failed")
    (line,) = lines()
    assert "Traceback" in line["exc"]
    assert "kafka://u:***@h:9092/t" in line["exc"]
    assert "hunter2" not in json.dumps(line)


def test_field_of_the_schema_s_name(lines):
    """A field cannot overwrite what every line has."""
    event(LOG, logging.INFO, "seen", run="other", level=7)
    (line,) = lines()
    assert ("r1", "info", "other", 7) == (line["run"], line["level"], line["run_"], line["level_"])


@pytest.mark.parametrize("text_format", ["text", "json"])
@pytest.mark.parametrize(
    "log",
    [
        lambda: event(LOG, logging.INFO, "connects", **{"sasl.password": "hunter2"}),
        lambda: event(LOG, logging.INFO, "connects", to="kafka://u:hunter2@h:9092/t?sasl.password=hunter2&a=1"),
        lambda: event(LOG, logging.INFO, "connects", settings={"ssl.key.password": "hunter2"}),
        lambda: event(LOG, logging.INFO, "connects", error=ValueError("token=hunter2")),
        lambda: LOG.info("configured with %s", {"sasl.password": "hunter2", "a": 1}),
        lambda: LOG.info('{"password":"hunter2"}'),
        lambda: LOG.info("to kafka://u:%s@h:1/t", "hunter2/with@signs"),
    ],
    ids=["field", "uri", "settings", "error", "foreign", "json", "signs"],
)
def test_secret(log, text_format):
    """No secret reaches a line: as a field, in a URI, in a setting, in a library's own message."""
    out = io.StringIO()
    configure(format=text_format, stream=out)
    log()
    assert "***" in out.getvalue()
    assert "hunter2" not in out.getvalue()


@pytest.mark.parametrize(
    ("expected", "text"),
    [
        ("kafka://127.0.0.1:9092/trades?group=a", "kafka://127.0.0.1:9092/trades?group=a"),
        ("s3://host:9000/a@b", "s3://host:9000/a@b"),
        ("kafka://u:***@h", "kafka://u:p:q/r@s@h"),
        ("kafka://:***@h", "kafka://:pw@h"),
        ("token: ***", "token: Bearer abc"),
        ("password = ***, user = b", "password = 'a b', user = b"),
        ("a=1 at [3, 5): start=4", "a=1 at [3, 5): start=4"),
    ],
)
def test_redacted(expected: str, text: str):
    """Secrets go, the rest stays as it is."""
    assert expected == redacted(text)


def test_configured_twice():
    """A second call replaces the first: no line comes twice, and the last settings count."""
    first, second = io.StringIO(), io.StringIO()
    configure(format="json", stream=first)
    configure(format="text", stream=second)
    event(LOG, logging.INFO, "once")
    assert "" == first.getvalue()
    assert 1 == second.getvalue().count("once")


def test_other_handlers_stay():
    """A handler that somebody else added is neither removed nor changed."""
    other = logging.StreamHandler(io.StringIO())
    logging.getLogger().addHandler(other)
    configure(stream=io.StringIO())
    assert other in logging.getLogger().handlers


def test_auto_format(monkeypatch):
    """Automatically it writes text with colours on a terminal, and JSON elsewhere; NO_COLOR is respected."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for out, begin in ((Terminal(), "\x1b["), (io.StringIO(), "{")):
        configure(stream=out)
        event(LOG, logging.INFO, "seen", stream="t")
        assert out.getvalue().startswith(begin)
    monkeypatch.setenv("NO_COLOR", "1")
    out = Terminal()
    configure(stream=out, run="r1")
    event(LOG, logging.INFO, "seen", stream="t", error="two words")
    assert "\x1b" not in out.getvalue()
    assert out.getvalue().rstrip().endswith("seen stream=t error='two words' run=r1")


def test_standard_error_is_looked_up_late(monkeypatch):
    """A progress bar that takes standard error's place gets the lines too."""
    configure(format="json")
    late = io.StringIO()
    monkeypatch.setattr(sys, "stderr", late)
    event(LOG, logging.INFO, "seen")
    assert "seen" in late.getvalue()


def test_run_of_the_environment(monkeypatch):
    """HEADRACE_RUN names the run, so that several processes of one run can be found together."""
    monkeypatch.setenv("HEADRACE_RUN", "nightly-7")
    assert "nightly-7" == configure(stream=io.StringIO())
    monkeypatch.delenv("HEADRACE_RUN")
    assert re.fullmatch("[0-9a-f]{8}", configure(stream=io.StringIO()))


@pytest.mark.parametrize("wrong", [{"level": "loud"}, {"format": "xml"}, {"level": ""}])
def test_wrong_setting(wrong):
    """An unknown level or format is refused, and what was configured before stays."""
    before = logging.getLogger().handlers[:]
    with pytest.raises(ConfigError, match="expected"):
        configure(**wrong)
    assert before == logging.getLogger().handlers


def test_event_of_a_lower_level():
    """Below the level nothing is made of the fields."""

    class Costly:
        def __str__(self) -> str:
            raise AssertionError

    configure(level="info", stream=io.StringIO())
    event(LOG, logging.DEBUG, "seen", value=Costly())


def test_library_adds_no_handler(tmp_path):
    """Importing and running the library adds no handler to any logger and sets no level."""
    (tmp_path / "a.jsonl").write_text('{"a":1}\n')
    code = f"""
import logging
before = logging.root.level
from headrace.pipeline import Pipeline
from headrace.registry import Registry
import headrace.cli.app, headrace.logs
r = Registry.discover()
Pipeline(source=r.source("jsonl://{tmp_path}/a.jsonl"), sink=r.sink("file://{tmp_path}/lake"), until_end=True).run()
ours = [logging.getLogger(n) for n in logging.root.manager.loggerDict if n.startswith("headrace")]
handled = [(l.name, l.handlers) for l in [logging.root, *ours] if l.handlers]
print(handled, logging.root.level == before, {{l.level for l in ours}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ("[] True {0}\n", "") == (done.stdout, done.stderr)


def test_repeated_errors():
    """Of a hundred lines alike the first is written at once, the others as a number now and then, and none is lost in the end."""
    now, out = [0.0], io.StringIO()
    configure(format="json", run="r1", stream=out)
    handler = next(h for h in logging.getLogger().handlers if h.get_name() == "headrace")
    handler._sampling = Sampling(30.0, lambda: now[0])
    for n in range(100):
        now[0] = float(n)
        event(LOG, logging.WARNING, "trying again", attempt=n, error=f"broker 7 timed out after {n} ms")
    event(LOG, logging.INFO, "seen")  # what is no warning is written each time
    event(LOG, logging.INFO, "seen")
    written = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(0, None), (29, 29), (59, 30), (89, 30)] == [
        (line["attempt"], line.get("repeated")) for line in written if line["event"] == "trying again"
    ]
    assert 2 == sum(line["event"] == "seen" for line in written)
    configure(format="json", stream=io.StringIO())  # the handler is closed, as at the process's end
    last = json.loads(out.getvalue().splitlines()[-1])
    assert ("trying again", 99, 10) == (last["event"], last["attempt"], last["repeated"])
    counted = sum(line.get("repeated", 1) for line in map(json.loads, out.getvalue().splitlines()) if "attempt" in line)
    assert 100 == counted


@pytest.mark.parametrize("other", [{"partition": 4}, {"error": "denied"}, {"feed": "b"}, {"target": "t"}])
def test_other_errors_are_not_repeated_ones(other):
    """A line about another place, or with another error, is a first one."""
    out = io.StringIO()
    configure(format="json", stream=out, repeat_s=60)
    for more in ({}, other, {}, other):
        event(LOG, logging.ERROR, "partition stopped", **({"stream": "s", "partition": 3, "error": "lost"} | more))
    assert 2 == len(out.getvalue().splitlines())


def test_every_line_on_request(monkeypatch):
    """HEADRACE_LOG_REPEAT_S=0 writes each line; a word that is no number is refused."""
    monkeypatch.setenv("HEADRACE_LOG_REPEAT_S", "0")
    out = io.StringIO()
    configure(format="json", stream=out)
    for _ in range(5):
        event(LOG, logging.ERROR, "lost")
    assert 5 == len(out.getvalue().splitlines())
    monkeypatch.setenv("HEADRACE_LOG_REPEAT_S", "often")
    with pytest.raises(ConfigError, match="expected seconds"):
        configure(stream=out)


def test_many_kinds_of_errors_are_bounded():
    """What is followed does not grow with the number of kinds, and what is forgotten is told before."""
    sampling = Sampling(1e9)
    for _ in range(2):
        for n in range(500):
            list(
                sampling.taken(
                    logging.makeLogRecord({"levelno": logging.ERROR, "what": "x", "fields": {"partition": n}})
                )
            )
    over = list(sampling.taken(logging.makeLogRecord({"levelno": logging.ERROR, "what": "y"})))
    assert ["y", "x"] == [r.what for r in over]
    assert 1 == over[1].fields["repeated"]
    assert 499 == len(list(sampling.rest()))


def test_run_in_what_is_left_behind():
    """A configured process puts its run before what it names; a library alone has no run."""
    root = logging.getLogger()
    for handler in root.handlers[:]:  # of a test before
        root.removeHandler(handler)
    assert ("", "abc") == (run_id(), marked("abc"))
    configure(run="nightly-7", stream=io.StringIO())
    assert ("nightly-7", "nightly-7.abc") == (run_id(), marked("abc"))

"""
Writes one-minute bars (open, high, low, close, volume) of silver's trades, one Parquet file a day, each of them checked.

The check is against an independent source: the vendor's own bars, which came down a stream of their own. Outside of the
auctions every minute must be equal to the last digit; in them the vendor books some trades in another minute. Of a day
that is still on its way the minutes are compared that both have got to. A day that is not right stays among the drafts,
keeps its file of before, and is tried again by the next run.
Which days there are to write is found from silver and the files, never from the event that started the run.
"""

from __future__ import annotations

from datetime import timedelta

import pendulum
from airflow.sdk import Param, dag, get_current_context, task
from headrace_places import BARS, BARS_SOUND, RETRIES, SILVER, SILVER_SOUND, folder, reading

ZONE = "America/New_York"
AUCTIONS = ((9, 30), (9, 31), (15, 59), (16, 0), (16, 1))
"""Minutes of New York in which the opening and the closing auction are reported."""

DRAFTS = "drafts"
"""Where a day's bars lie until they are checked: a file is there only if they are right."""

OURS = "SELECT * FROM trades_ohlcv_1m WHERE time >= $begin AND time < $end"
VENDORS = "SELECT * FROM bars_current WHERE time >= $begin AND time < $end AND symbol IN (SELECT symbol FROM ours)"


def bounds(day: str):
    """Where a day of New York begins and ends, in UTC, as silver has its times."""
    begin = pendulum.parse(day, tz=ZONE)
    return {"begin": begin.in_timezone("UTC").naive(), "end": begin.add(days=1).in_timezone("UTC").naive()}


def auctions(day: str):
    """The minutes of a day's auctions, in UTC."""
    return [pendulum.parse(day, tz=ZONE).set(hour=h, minute=m).in_timezone("UTC").naive() for h, m in AUCTIONS]


@dag(
    schedule=[SILVER_SOUND],
    catchup=False,
    max_active_runs=1,  # two would write the same files; each is put in its place whole, so it would only be work twice
    dagrun_timeout=timedelta(hours=1),  # seven days with waits and retries; of days that are cut off the next run knows
    default_args=RETRIES,
    params={
        "warehouse": Param(SILVER, type="string", description="Connection of the DuckDB file."),
        "days": Param(7, type="integer", minimum=1, description="So many of the newest days are looked at."),
    },
    tags=["headrace"],
    doc_md=__doc__,
)
def bars():
    @task(
        execution_timeout=timedelta(minutes=10)
    )  # a day's bars take seconds; most of this is waiting while a load has the file
    def days() -> list[str]:
        """Return the days of which silver has other bars than the files."""
        params = get_current_context()["params"]
        with reading(params["warehouse"]) as silver:
            hours = silver.execute("SELECT DISTINCT date_trunc('hour', time) FROM trades").fetchall()
            found = {pendulum.instance(hour, tz="UTC").in_timezone(ZONE).to_date_string() for (hour,) in hours}
            newest = sorted(found)[-params["days"] :]
            return [day for day in newest if differs(silver, day, folder(BARS) / f"{day}.parquet")]

    def differs(silver, day, file) -> bool:
        if not file.exists():
            return True
        query = f"SELECT count(*) FROM (FROM ({OURS}) EXCEPT ALL FROM read_parquet($file))"
        return silver.execute(query, {**bounds(day), "file": str(file)}).fetchone() != (0,)

    # Readers may be many, but while one has the file no loader can: two keep that short. Seconds of work, and of waits ten
    # minutes, here and at the check.
    @task(max_active_tis_per_dagrun=2, execution_timeout=timedelta(minutes=10), map_index_template="{{ day }}")
    def write(day: str) -> str:
        """Write one day's draft: it is there whole, or as it was."""
        import os

        context = get_current_context()
        context["day"] = day
        draft = folder(BARS) / DRAFTS / f"{day}.parquet"
        draft.parent.mkdir(parents=True, exist_ok=True)
        mine = draft.with_suffix(f".{os.getpid()}")
        with reading(context["params"]["warehouse"]) as silver:
            query = (
                f"COPY ({OURS} ORDER BY symbol, time) TO '{str(mine).replace(chr(39), chr(39) * 2)}' (FORMAT parquet)"
            )
            silver.execute(query, bounds(day))
        mine.replace(draft)
        return day

    @task(max_active_tis_per_dagrun=2, execution_timeout=timedelta(minutes=10), map_index_template="{{ day }}")
    def check(day: str) -> dict[str, int]:
        """Hold a day's draft against the vendor's bars; what passes takes the place of the day's file."""
        import os
        import shutil

        from airflow.sdk.exceptions import AirflowFailException

        context = get_current_context()
        context["day"], params = day, context["params"]
        equal = " AND ".join(
            f"coalesce(o.{name} = v.{name}, false)" for name in ("open", "high", "low", "close", "volume")
        )
        query = (
            f"WITH ours AS (FROM read_parquet($file)), vendors AS ({VENDORS}),"
            " reached AS (SELECT symbol, max(o.time) AS we, max(v.time) AS they"
            " FROM ours o FULL JOIN vendors v USING (symbol, time) GROUP BY symbol)"
            f" SELECT count(*), count(*) FILTER (WHERE {equal}),"
            f" count(*) FILTER (WHERE NOT ({equal}) AND time NOT IN (SELECT unnest($auctions)))"
            " FROM ours o FULL JOIN vendors v USING (symbol, time) JOIN reached USING (symbol)"
            " WHERE time <= they AND (time < we OR we = they)"  # the minute that we are in may grow
        )
        draft, file = (folder(BARS) / place / f"{day}.parquet" for place in (DRAFTS, ""))
        mine = file.with_suffix(f".{os.getpid()}")
        # another attempt may write the draft again: what is looked at is what is put in place
        shutil.copyfile(draft, mine)
        with reading(params["warehouse"]) as silver:
            found = silver.execute(query, {**bounds(day), "file": str(mine), "auctions": auctions(day)}).fetchone()
        minutes, whole, wrong = found
        if wrong or not minutes:
            mine.unlink()
            raise AirflowFailException(
                f"{day}: of {minutes} minutes {wrong} outside of the auctions are not as the vendor's bars, expected some and 0:"
                f" look at {draft} beside the view bars_current"
            )
        mine.replace(file)
        return {"minutes": minutes, "equal": whole, "in auctions": minutes - whole}

    # none_failed: where no day had changed, the other tasks are skipped. It writes one event.
    @task(outlets=[BARS_SOUND], trigger_rule="none_failed", execution_timeout=timedelta(minutes=1))
    def publish() -> None:
        """Say that the files are there and right; one task does, when all is done."""

    check.expand(day=write.expand(day=days())) >> publish()


bars()

"""The HTTP interface: what connectors of today expect of a login, of PUT and of an answer, and faults on request."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from pathlib import Path

import exact
import fakesnow.arrow as arrow
import fakesnow.server as server
import fakesnow.transforms.stage as stages
import pyarrow as pa
import pyarrow.compute as pc
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

PASSWORD = os.environ.get("HEADRACE_SNOWFLAKE_PASSWORD", "")
IDLE_S = float(os.environ.get("HEADRACE_SNOWFLAKE_IDLE_S", "0"))
"""A transaction is rolled back whose session was silent for so long while another one worked; 0: never."""

_heard: dict[str, tuple[float, bool]] = {}


def mended() -> object:
    """Put our routes into fakesnow's application."""
    exact.while_waiting = reap
    server.to_sf = to_sf
    server.gcs_stage_info = stage_info
    routes = {
        "/session/v1/login-request": (login, ["POST"]),
        "/session": (session, ["POST"]),
        "/queries/v1/query-request": (query, ["POST"]),
        "/telemetry/send": (telemetry, ["POST"]),
        "/fs_bucket/{path:path}": (bucket, ["PUT", "HEAD", "GET"]),
    }
    kept = [route for route in server.app.router.routes if route.path not in routes]
    server.app.router.routes[:] = [*kept, *(Route(path, f, methods=m) for path, (f, m) in routes.items())]
    return server.app


async def telemetry(_):
    return JSONResponse({"success": True, "data": None})


def failure(number: str, message: str, state: str = "XX000") -> JSONResponse:
    data = {"errorCode": number, "sqlState": state}
    return JSONResponse({"data": data, "code": number, "message": message, "success": False, "headers": None})


# ---- sessions ---------------------------------------------------------------------------------------------------


async def body_of(request) -> dict:
    raw = await request.body()
    return json.loads(gzip.decompress(raw) if request.headers.get("content-encoding") == "gzip" else raw)


def put_body(request, body: dict) -> None:
    raw = json.dumps(body).encode()
    request._body = gzip.compress(raw) if request.headers.get("content-encoding") == "gzip" else raw


_login = server.login_request


async def login(request):
    body = await body_of(request)
    given = body["data"]
    if PASSWORD and "TOKEN" not in given and given.get("PASSWORD") != PASSWORD:
        return failure("390100", "Incorrect username or password was specified.", "28000")
    settings = given.setdefault("SESSION_PARAMETERS", {})
    automatic = settings.get("AUTOCOMMIT", True)  # connector 5 sends a text
    settings["AUTOCOMMIT"] = automatic if isinstance(automatic, bool) else str(automatic).lower() == "true"
    put_body(request, body)
    answer = await _login(request)
    told = json.loads(answer.body)
    data = told["data"]
    server.sessions[data["token"]].lock_timeout_s = float(settings.get("LOCK_TIMEOUT", 43200))
    data.update(
        masterToken="m" + data["token"],
        sessionId=secrets.randbelow(10**12),
        validityInSeconds=3600,
        masterValidityInSeconds=14400,
    )
    place = request.query_params
    data["sessionInfo"].update(warehouseName=place.get("warehouse") or None, roleName=place.get("roleName") or None)
    return JSONResponse(told)


def token_of(request) -> str:
    return request.headers.get("authorization", "")[17:-1]


_session = server.session


async def session(request):
    if request.query_params.get("delete"):
        end(token_of(request))
    return await _session(request)


def end(token: str) -> None:
    """Roll back what a session has open."""
    if token in server.sessions:
        kept = server.sessions[token]
        kept.ended = True  # a statement of it that waits for a lock stops waiting
        if not _heard.get(token, (0, False))[1]:
            try:
                kept._duck_conn.rollback()
            except Exception:
                pass
            kept.done, kept.ended = None, False
    _heard.pop(token, None)


def reap(but: str = "") -> None:
    now = time.monotonic()
    for token, (at, busy) in list(_heard.items()) if IDLE_S else ():
        if token != but and not busy and now - at > IDLE_S:
            end(token)


# ---- statements -------------------------------------------------------------------------------------------------

_query = server.query_request
_REMOVE = re.compile(r"\s*(?:remove|rm)\s+'?@([\w.$\"]+)/?([^'\s]*)'?\s*;?\s*", re.IGNORECASE)


async def query(request):
    token = token_of(request)
    reap(token)
    _heard[token] = (time.monotonic(), True)
    try:
        body = await body_of(request)
        if removed := _REMOVE.fullmatch(body.get("sqlText", "")):
            remove(token, *removed.groups())
            body["sqlText"] = "SELECT 'all' AS NAME, 'removed' AS RESULT"
            put_body(request, body)
        answer = await _query(request)
    except Exception as error:
        return failure("261000", f"{type(error).__name__}: {error}")
    finally:
        if token in _heard:
            _heard[token] = (time.monotonic(), False)
    if answer.status_code == 500:
        return failure("261000", json.loads(answer.body)["message"])
    return answer


def remove(token: str, name: str, path: str) -> None:
    conn = server.sessions[token]
    parts = stages.parts_from_var(name, current_database=conn.database, current_schema=conn.schema)
    place = Path(stages.internal_dir(".".join(parts), path))
    if place.is_dir():
        shutil.rmtree(place)
    else:
        for file in place.parent.glob(f"{place.name}*") if place.parent.is_dir() else ():
            shutil.rmtree(file) if file.is_dir() else file.unlink()


# ---- results ----------------------------------------------------------------------------------------------------


def moments(column):
    """A timestamp as the connectors read it; NULL stays NULL (fakesnow makes it 1970, or lets connector 5 fail)."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    per = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[column.type.unit]
    values = pc.fill_null(column.cast(pa.int64()), 0)
    seconds = pc.divide(values, per)  # towards zero
    below = pc.less(pc.subtract(values, pc.multiply(seconds, per)), 0)
    seconds = pc.if_else(below, pc.subtract(seconds, 1), seconds)
    rest = pc.multiply(pc.subtract(values, pc.multiply(seconds, per)), 10**9 // per)
    arrays = [seconds.cast(pa.int64()), rest.cast(pa.int32())]
    fields = [pa.field("epoch", pa.int64()), pa.field("fraction", pa.int32())]
    if column.type.tz:
        arrays.append(pa.array([1440] * len(column), pa.int32()))
        fields.append(pa.field("timezone", pa.int32()))
    return pa.StructArray.from_arrays(arrays, fields=fields, mask=pc.is_null(column))


def nullable(field):
    if pa.types.is_struct(field.type):
        return field.with_type(pa.struct([pa.field(inner.name, inner.type) for inner in field.type]))
    return field


def to_sf(table, rowtype):
    columns = []
    for column in table.columns:
        if pa.types.is_timestamp(column.type):
            column = moments(column)
        elif pa.types.is_time(column.type):
            column = pc.multiply(column.cast(pa.int64()), 1000)
        elif pa.types.is_null(column.type):
            column = column.cast(pa.string())
        columns.append(column)
    fields = [
        field.with_type(field.type if pa.types.is_timestamp(field.type) else column.type)
        for field, column in zip(table.schema, columns, strict=True)
    ]
    schema = pa.schema([nullable(field) for field in arrow.to_sf_schema(pa.schema(fields), rowtype)])
    return pa.Table.from_arrays(columns, schema=schema)


# ---- staged files -----------------------------------------------------------------------------------------------

_stage_info = server.gcs_stage_info


def stage_info(request, expression, put):
    """Where connector 5 puts a file: at this server, by HTTP; older ones take the address that fakesnow signs."""
    if "/5." not in request.headers.get("user-agent", ""):
        return _stage_info(request, expression, put)
    raw = request._body
    sql = json.loads(gzip.decompress(raw) if request.headers.get("content-encoding") == "gzip" else raw)["sqlText"]
    put["overwrite"] = bool(re.search(r"\boverwrite\s*=\s*true\b", sql, re.IGNORECASE))
    if found := re.search(r"\bsource_compression\s*=\s*(\w+)", sql, re.IGNORECASE):
        put["sourceCompression"] = found[1].lower()
    path = os.path.relpath(put["stageInfo"]["location"], stages.LOCAL_BUCKET_PATH)
    return {
        "locationType": "GCS",
        "location": path.rstrip("/") + "/",
        "region": "us",
        "path": path,
        "isClientSideEncrypted": False,
        "storageAccount": None,
        "creds": {"GCS_ACCESS_TOKEN": "t"},
        "presignedUrl": "",
        "endPoint": f"{request.url.scheme}://{request.url.netloc}/fs_bucket",
        "useRegionalUrl": False,
        "useVirtualUrl": False,
    }


async def bucket(request):
    """Take a staged file whole or not at all, and give it back with its digest."""
    path = Path(os.path.normpath(Path(stages.LOCAL_BUCKET_PATH) / request.path_params["path"]))
    if not path.is_relative_to(stages.LOCAL_BUCKET_PATH):
        return Response(status_code=400)
    if request.method == "PUT":
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        with part.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        part.replace(path)
        return Response()
    if not path.is_file():
        return Response(status_code=404)
    content = path.read_bytes()
    digest = base64.b64encode(hashlib.sha256(content).digest()).decode()
    headers = {"x-goog-meta-sfc-digest": digest, "content-length": str(len(content))}
    return Response(b"" if request.method == "HEAD" else content, headers=headers)

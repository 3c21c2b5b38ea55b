# Two images from one file; docs/pages/deploy.md says how each is used, and what of it was tested.
#
#   docker build -t headrace .                                        headrace with every extra but Parquet's
#   docker build -t headrace --build-arg LOCK=docker/lock.parquet .   with Parquet
#   docker build -t headrace-airflow --target airflow .               Airflow, headrace and the example DAGs
#
# What is installed is the wheel of this checkout and what a lock names, by hash.
# The base is pinned by its tag; where yours shall be the same to the byte, pin it by its digest as well, which
# `docker buildx imagetools inspect python:TAG` tells:
#
#   docker build --build-arg BASE=python:3.11.14-slim-bookworm@sha256:… .

ARG BASE=python:3.11.14-slim-bookworm

# ---- what builds, and stays behind ------------------------------------------------------------------------------------

FROM ${BASE} AS tools
ENV UV_COMPILE_BYTECODE=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never
WORKDIR /build
COPY docker/tools.lock docker/tools.lock
RUN --mount=type=cache,target=/root/.cache/pip \
    python -m venv /opt/tools \
    && /opt/tools/bin/pip install --quiet --require-hashes --only-binary :all: -r docker/tools.lock

FROM tools AS wheel
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY src src
# the same files give the same wheel, whenever it is built
RUN SOURCE_DATE_EPOCH=1767225600 /opt/tools/bin/uv build --quiet --wheel --no-build-isolation \
    --python /opt/tools/bin/python --out-dir dist

FROM tools AS installed
ARG LOCK=docker/lock
COPY ${LOCK} lock
COPY --from=wheel /build/dist dist
# without pip: what is in the image is what the lock names
RUN --mount=type=cache,target=/root/.cache/uv \
    python -m venv --without-pip /opt/headrace \
    && /opt/tools/bin/uv pip install --quiet --python /opt/headrace --require-hashes --only-binary :all: -r lock \
    && /opt/tools/bin/uv pip install --quiet --python /opt/headrace --no-deps --no-index dist/*.whl

FROM tools AS airflow-installed
COPY docker/airflow.lock lock
COPY --from=wheel /build/dist dist
RUN --mount=type=cache,target=/root/.cache/uv \
    python -m venv --without-pip /opt/headrace \
    && /opt/tools/bin/uv pip install --quiet --python /opt/headrace --require-hashes --only-binary :all: -r lock \
    && /opt/tools/bin/uv pip install --quiet --python /opt/headrace --no-deps --no-index dist/*.whl

# ---- what runs --------------------------------------------------------------------------------------------------------

FROM ${BASE} AS runtime
# a user with a fixed number, so that the owner of a volume is known; it owns nothing but these three folders
RUN echo 'headrace:x:10001:10001:headrace:/home/headrace:/usr/sbin/nologin' >>/etc/passwd \
    && echo 'headrace:x:10001:' >>/etc/group \
    && mkdir -p /home/headrace /opt/airflow /srv/headrace \
    && chown 10001:10001 /home/headrace /opt/airflow /srv/headrace
ENV PATH=/opt/headrace/bin:$PATH HOME=/home/headrace PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
WORKDIR /srv/headrace
USER 10001:10001
# `headrace` commits what it holds and leaves; allow it 45 s (docker stop --time 45)
STOPSIGNAL SIGTERM
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="headrace" \
    org.opencontainers.image.description="Carries a stream to the lake and on to the warehouse, every record exactly once" \
    org.opencontainers.image.licenses="Apache-2.0" \
    org.opencontainers.image.version="${VERSION}" \
    org.opencontainers.image.revision="${REVISION}"

FROM runtime AS airflow
COPY --from=airflow-installed /opt/headrace /opt/headrace
COPY examples/dags /opt/dags
ENV AIRFLOW_HOME=/opt/airflow AIRFLOW__CORE__DAGS_FOLDER=/opt/dags AIRFLOW__CORE__LOAD_EXAMPLES=False
LABEL org.opencontainers.image.title="headrace-airflow"
# `airflow standalone` ends its processes on this one; on SIGTERM it dies, and leaves them to be killed
STOPSIGNAL SIGINT
ENTRYPOINT ["airflow"]
CMD ["standalone"]

# the last one is what `docker build` makes unless a target is named
FROM runtime AS headrace
COPY --from=installed /opt/headrace /opt/headrace
# `stream`, `load` and `record` say at this place how they are: 0.0.0.0:9464 lets other containers ask for /metrics as well
ENV HEADRACE_SERVE=127.0.0.1:9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 9464, timeout=4); c.request('GET', '/ready'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["headrace"]
CMD ["--help"]

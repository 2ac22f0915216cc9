# Two images: `docker build --target api .` serves and sweeps and has no torch; `--target worker .` computes as well.
# A build needs the package index that pip is set up for, and nothing else. Compilers are in neither image.

FROM python:3.11-slim-bookworm AS python
ENV PATH=/opt/triggerlens/bin:$PATH \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1

# Dependencies apart from the source, so that a change of the source leaves their layers as they are.
FROM python AS dependencies
WORKDIR /src
COPY pyproject.toml constraints.txt ./
RUN python -m venv /opt/triggerlens \
    && python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*project['dependencies'], sep='\n')" > base.txt \
    && pip install --constraint constraints.txt --requirement base.txt

FROM dependencies AS engine-dependencies
RUN python -c "import tomllib; project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
        print(*project['optional-dependencies']['engine'], sep='\n')" > engine.txt \
    && pip install --constraint constraints.txt --requirement base.txt --requirement engine.txt

FROM python AS wheel
WORKDIR /src
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels .

FROM python AS runtime
ARG REVISION=unknown
LABEL org.opencontainers.image.title="TriggerLens" \
      org.opencontainers.image.description="Finds planted backdoors in image classifiers" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin triggerlens \
    && install --directory --owner triggerlens --group triggerlens --mode 0700 /data
ENV HOME=/data \
    TRIGGERLENS_DATA_DIR=/data
CMD ["triggerlens", "--help"]

FROM runtime AS api
COPY --from=dependencies /opt/triggerlens /opt/triggerlens
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-deps --no-index /wheels/*.whl
USER 10001:10001
EXPOSE 8360
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8360/healthz', timeout=4)"]

# Whether a worker is well is written in the database; docker-compose.yml looks there.
FROM runtime AS worker
# hadolint ignore=DL3008
RUN apt-get update && apt-get install --yes --no-install-recommends bubblewrap && rm -rf /var/lib/apt/lists/*
COPY --from=engine-dependencies /opt/triggerlens /opt/triggerlens
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels pip install --no-deps --no-index /wheels/*.whl
USER 10001:10001

# Two stages: build an environment from the locked, hashed requirements, then copy only it.
# `docker run -p 8080:8080 -v data:/data IMAGE` alone serves the demo, with durable data under /data.
FROM python:3.11-slim-bookworm AS build
WORKDIR /build
RUN python3 -m venv /opt/gateway
COPY requirements.lock ./
RUN /opt/gateway/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock
COPY pyproject.toml README.md ./
COPY gateway ./gateway
RUN /opt/gateway/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation . \
 && /opt/gateway/bin/pip uninstall --yes --quiet pip \
 && find /opt/gateway -name tests -type d -path '*site-packages*' -prune -exec rm -rf {} + \
 && find /opt/gateway -name '*.pyi' -delete \
 && rm -rf /opt/gateway/lib/python3*/site-packages/litellm/proxy/_experimental/out \
 && /opt/gateway/bin/python3 -c "import gateway.settings as s; s.translation_environment(); import gateway.providers.litellm_bridge"

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 900 gateway \
 && useradd --system --uid 900 --gid gateway --home-dir /data --shell /usr/sbin/nologin gateway \
 && mkdir /data && chown gateway:gateway /data
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MOZAIKS_HOST=0.0.0.0 \
    MOZAIKS_PORT=8080 \
    MOZAIKS_DATA_DIR=/data
USER gateway
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
CMD ["gateway", "serve"]

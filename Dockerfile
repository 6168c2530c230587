# nightshift in a container; compose.yaml runs it with its database, Prometheus and Grafana.
#
#   docker build --tag nightshift .
#   docker run --rm --init nightshift demo
#
# docs/operations.md says how to run it for good.

ARG PYTHON_IMAGE=docker.io/library/python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
# Everything comes from the lock and is checked against its hashes; after that, nothing needs the network.
COPY requirements.lock .
RUN python3 -m venv /opt/build \
 && /opt/build/bin/pip wheel --no-cache-dir --require-hashes --requirement requirements.lock --wheel-dir /wheels
COPY . .
RUN python3 -m venv --without-pip /opt/nightshift \
 && /opt/build/bin/pip --python /opt/nightshift install --no-cache-dir --no-index --find-links /wheels '.[embedded]'

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="nightshift" \
      org.opencontainers.image.description="Copies sleep and sensor sessions from the Beddit and BACE clouds into PostgreSQL" \
      org.opencontainers.image.licenses="MIT"
# An account with a name: the embedded PostgreSQL knows its users by it.
RUN groupadd --gid 10001 nightshift \
 && useradd --uid 10001 --gid 10001 --home-dir /var/lib/nightshift --shell /usr/sbin/nologin nightshift \
 && install --directory --owner 10001 --group 10001 --mode 0750 /var/lib/nightshift
COPY --from=build /opt/nightshift /opt/nightshift
ENV PATH=/opt/nightshift/bin:$PATH \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    NIGHTSHIFT_STATE_DIR=/var/lib/nightshift \
    NIGHTSHIFT_DAEMON__LISTEN=0.0.0.0:9750
USER 10001:10001
WORKDIR /var/lib/nightshift
VOLUME /var/lib/nightshift
EXPOSE 9750
STOPSIGNAL SIGTERM
# Not urllib, which would ask a proxy. Where nightshift listens nowhere, that the container runs has to do.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s CMD ["python3", "-c", "\
import http.client, os, sys; \
host, _, port = (os.environ.get('NIGHTSHIFT_DAEMON__LISTEN') or '127.0.0.1:9750').rpartition(':'); \
host or sys.exit(0); \
host = host.strip('[]'); \
host = {'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host); \
daemon = http.client.HTTPConnection(host, int(port), timeout=5); \
daemon.request('GET', '/healthz'); \
sys.exit(daemon.getresponse().status != 200)"]
ENTRYPOINT ["nightshift"]
CMD ["run"]

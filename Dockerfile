# nightshift in a container, for one-shot commands:
#
#   docker build -t nightshift .
#   docker run --rm nightshift demo
#   docker run --rm -v nightshift:/var/lib/nightshift -v ./nightshift.toml:/etc/nightshift/nightshift.toml:ro nightshift once

FROM python:3.13-slim AS build
WORKDIR /src
COPY . .
# The lock's versions, without the hashes that pip would then want of the project itself too.
RUN sed -nE 's/^([A-Za-z0-9._-]+==[^ ;]+)( ;[^\\]*)? *\\?$/\1\2/p' requirements.lock > /constraints.txt \
 && python -m venv /opt/nightshift \
 && /opt/nightshift/bin/pip install --no-cache-dir --constraint /constraints.txt '.[embedded]'

FROM python:3.13-slim
RUN useradd --system --uid 10001 --home-dir /var/lib/nightshift --create-home nightshift
COPY --from=build /opt/nightshift /opt/nightshift
ENV PATH=/opt/nightshift/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    NIGHTSHIFT_STATE_DIR=/var/lib/nightshift
USER nightshift
WORKDIR /var/lib/nightshift
VOLUME /var/lib/nightshift
ENTRYPOINT ["nightshift"]
CMD ["once"]

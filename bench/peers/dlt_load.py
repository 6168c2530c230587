"""The same nights with dlt, as its documents advise for PostgreSQL.

From dlt's pages "Postgres" and "Optimizing dlt": the csv loader format, which is streamed with COPY; Arrow
tables instead of Python objects where one can make them ("several times faster"); pages instead of single
items; no unique indexes (``create_indexes=false``); uncompressed files; files rotated and as many workers as
there are processors. Write disposition ``append``, the cheapest: rows come in and nothing is compared.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from typing import Any, Final

from bench.peers.api import Job, told

SETTINGS: Final = {
    "EXTRACT__WORKERS": "2",
    "NORMALIZE__WORKERS": str(os.cpu_count() or 1),
    "LOAD__WORKERS": "8",
    "DATA_WRITER__BUFFER_MAX_ITEMS": "100000",
    "DATA_WRITER__FILE_MAX_ITEMS": "100000",
    "DATA_WRITER__DISABLE_COMPRESSION": "true",
    "DESTINATION__POSTGRES__CREATE_INDEXES": "false",
    "RUNTIME__DLTHUB_TELEMETRY": "false",
    "RUNTIME__LOG_LEVEL": "ERROR",
}
os.environ.update(SETTINGS)

import dlt  # noqa: E402 - reads the environment
import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
from dlt.sources.helpers import requests  # noqa: E402

PAGE: Final = 100_000
TYPES: Final = {"uint16": "<u2", "float32": "<f4"}


def sessions(job: Job) -> Iterator[dict[str, Any]]:
    """Every session."""
    for question in job.questions():
        yield from requests.get(question, headers=job.headers).json()


def row_pages(job: Job) -> Iterator[Any]:
    """Points and samples as one flat table, page by page."""
    make = _arrow if job.arrow else _objects
    for session in sessions(job):
        for name, track in session["time_value_tracks"].items():
            items = track["items"]
            if items:
                offsets, values = np.asarray(items, float).T
                yield from make(job.user, session, name, offsets, values)
        for name, track in session["sampled_tracks"].items() if job.samples == "rows" else ():
            data = requests.get(track["data_url"]).content
            values = np.frombuffer(data, TYPES[track["data_type"]]).astype(float)
            offsets = np.arange(len(values)) * session["frame_length"] / track["samples_per_frame"]
            yield from make(job.user, session, name, offsets, values)


def _arrow(user: int, session: dict[str, Any], name: str, offsets: Any, values: Any) -> Iterator[Any]:
    microseconds = np.rint((session["start_timestamp"] + offsets) * 1e6).astype("int64")
    count = len(values)
    yield pa.table(
        {
            "user_id": np.full(count, user),
            "session_id": np.full(count, session["id"]),
            "track": pa.array([name] * count),
            "index": np.arange(count),
            "time": pa.array(microseconds, pa.timestamp("us", "UTC")),
            "value": values,
        }
    )


def _objects(user: int, session: dict[str, Any], name: str, offsets: Any, values: Any) -> Iterator[Any]:
    start = session["start_timestamp"]
    pairs = zip(offsets.tolist(), values.tolist(), strict=True)
    rows = [
        {
            "user_id": user,
            "session_id": session["id"],
            "track": name,
            "index": index,
            "time": start + offset,
            "value": value,
        }
        for index, (offset, value) in enumerate(pairs)
    ]
    for begin in range(0, len(rows), PAGE):
        yield rows[begin : begin + PAGE]


def complete(dsn: str) -> str:
    """The address with a host and a password, on which dlt insists; libpq lets the query's host win."""
    scheme, rest = dsn.split("://", 1)
    login, _, place = rest.rpartition("@") if "@" in rest else ("postgres", "", rest)
    login = login if ":" in login else f"{login}:unused"
    place = f"localhost{place}" if place.startswith("/") else place
    return f"{scheme}://{login}@{place}"


def main(job: Job) -> int:
    """Load; how many rows."""
    pipeline = dlt.pipeline(
        "nights",
        pipelines_dir=f"{job.folder}/pipelines",
        destination=dlt.destinations.postgres(complete(job.dsn)),
        dataset_name="nights",
    )
    columns: Any = {"time": {"data_type": "timestamp"}, "value": {"data_type": "double"}}
    resource = dlt.resource(lambda: row_pages(job), name="rows", write_disposition="append", columns=columns)
    pipeline.run(resource, loader_file_format="csv").raise_on_failed_jobs()
    with pipeline.sql_client() as client, client.execute_query('SELECT count(*) FROM "rows"') as cursor:
        return int(cursor.fetchall()[0][0])


if __name__ == "__main__":
    began = time.perf_counter()
    loaded = main(told())
    print(json.dumps({"rows": loaded, "seconds": time.perf_counter() - began}))

"""What the cloud holds arrives, whole, once, and stays."""

from __future__ import annotations

import numpy as np

from sync.emulators.beddit import Study

SMALL = Study(nights=3, hours=0.2)


async def test_every_point_arrives_with_its_value_and_instant(open_pipeline):
    """Every item of every time-value track is in the warehouse, bit for bit, at start + offset."""
    pipeline = await open_pipeline(SMALL)
    await pipeline.once()
    for user in SMALL.users:
        for session_id, session in pipeline.cloud.truth(user).items():
            rows = await pipeline.fetch(
                """
                SELECT track, index, offset_seconds, value, (extract(epoch FROM time) * 1000000)::bigint AS us
                FROM beddit.track_values WHERE user_id = $1 AND session_id = $2 ORDER BY track, index
                """,
                user,
                session_id,
            )
            start = session["start_timestamp"]
            expected = [
                (track, index, float(time), float(value), round((start + time) * 1e6))
                for track, content in sorted(session["time_value_tracks"].items())
                for index, (time, value) in enumerate(content["items"])
            ]
            assert [tuple(row.values()) for row in rows] == expected


async def test_every_sample_arrives_with_its_value_and_instant(open_pipeline):
    """Every raw sample equals the source's, at start + index * frame_length / samples_per_frame."""
    study = Study(users=(1001,), nights=1, hours=0.2)
    pipeline = await open_pipeline(study)
    await pipeline.once()
    night = study.night(1001, 0)
    for track, rate in (("normal", 28), ("noise", 2)):
        truth = night.samples(track).astype(np.float64)
        rows = await pipeline.fetch(
            'SELECT index, value, (extract(epoch FROM "time") * 1000000)::bigint AS us FROM beddit.samples '
            "WHERE user_id = 1001 AND session_id = $1 AND track = $2 ORDER BY index",
            night.session_id,
            track,
        )
        index = np.arange(len(truth))
        assert [row["value"] for row in rows] == truth.tolist()
        assert [row["index"] for row in rows] == index.tolist()
        instants = np.rint((night.start_timestamp + index * 0.2 / rate) * 1e6).astype(np.int64)
        assert [row["us"] for row in rows] == instants.tolist()


async def test_a_second_pass_writes_no_data_row(open_pipeline):
    """Nothing new: about one request an account, nothing stored, and no data row touched."""
    pipeline = await open_pipeline(SMALL)
    await pipeline.once()
    tables = ("session_records", "track_arrays", "track_declarations", "blob_records", "sample_chunks")
    query = " UNION ALL ".join(
        f"SELECT '{table}' AS name, count(*), max(xmin::text::bigint) FROM beddit.{table}"  # noqa: S608
        for table in tables
    )
    before = await pipeline.fetch(query)
    pipeline.cloud.forget_requests()
    outcomes = await pipeline.once()
    assert await pipeline.fetch(query) == before
    assert [outcome.tally.stored for outcome in outcomes] == [0, 0]
    assert len(pipeline.cloud.requests) == len(SMALL.users)

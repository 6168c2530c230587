"""The Beddit tables that batches are written to, and the questions asked of them."""

from __future__ import annotations

from sync.model import Head, PgType, Table

TRACK_ARRAYS = Table(
    "beddit.track_arrays",
    (
        ("session_id", PgType.INT8),
        ("user_id", PgType.INT8),
        ("track", PgType.TEXT),
        ("value_data_type", PgType.TEXT),
        ("extra", PgType.JSONB),
        ("indexes", PgType.INT4_ARRAY),
        ("offsets", PgType.FLOAT8_ARRAY),
        ("times", PgType.TIMESTAMPTZ_ARRAY),
        ("values", PgType.FLOAT8_ARRAY),
    ),
)

TRACK_DECLARATIONS = Table(
    "beddit.track_declarations",
    (
        ("session_id", PgType.INT8),
        ("user_id", PgType.INT8),
        ("track", PgType.TEXT),
        ("data_type", PgType.TEXT),
        ("samples_per_frame", PgType.INT4),
        ("extra", PgType.JSONB),
    ),
)

SESSIONS = Head(
    noun="night",
    table=Table(
        "beddit.session_records",
        (
            ("user_id", PgType.INT8),
            ("session_id", PgType.INT8),
            ("start_timestamp", PgType.FLOAT8),
            ("started_at", PgType.TIMESTAMPTZ),
            ("ended_at", PgType.TIMESTAMPTZ),
            ("timezone", PgType.TEXT),
            ("night", PgType.DATE),
            ("hardware", PgType.TEXT),
            ("software", PgType.TEXT),
            ("frame_length", PgType.FLOAT8),
            ("frame_count", PgType.INT8),
            ("error_code", PgType.INT4),
            ("updated", PgType.FLOAT8),
            ("digest", PgType.BYTEA),
            ("extra", PgType.JSONB),
            ("heart_rate_count", PgType.INT4),
            ("heart_rate_mean", PgType.FLOAT8),
            ("heart_rate_min", PgType.FLOAT8),
            ("heart_rate_max", PgType.FLOAT8),
            ("respiration_cycle_count", PgType.INT4),
            ("respiration_cycle_seconds", PgType.FLOAT8),
            ("respiration_rate_mean", PgType.FLOAT8),
            ("actigram_count", PgType.INT4),
            ("actigram_sum", PgType.FLOAT8),
            ("actigram_mean", PgType.FLOAT8),
            ("actigram_min", PgType.FLOAT8),
            ("actigram_max", PgType.FLOAT8),
            ("snoring_event_count", PgType.INT4),
            ("snoring_seconds", PgType.FLOAT8),
            ("snoring_longest_seconds", PgType.FLOAT8),
        ),
    ),
    key=("user_id", "session_id"),
    stamp="updated",
    digest="digest",
    owns=(TRACK_ARRAYS, TRACK_DECLARATIONS),
    part="session_id",
)

SAMPLE_CHUNKS = Table(
    "beddit.sample_chunks",
    (
        ("session_id", PgType.INT8),
        ("user_id", PgType.INT8),
        ("track", PgType.TEXT),
        ("first_index", PgType.INT8),
        ("bias", PgType.INT8),
        ("int2s", PgType.INT2_ARRAY),
        ("int4s", PgType.INT4_ARRAY),
        ("float4s", PgType.FLOAT4_ARRAY),
        ("float8s", PgType.FLOAT8_ARRAY),
    ),
)

BLOBS = Head(
    noun="raw signal",
    table=Table(
        "beddit.blob_records",
        (
            ("user_id", PgType.INT8),
            ("session_id", PgType.INT8),
            ("track", PgType.TEXT),
            ("updated", PgType.FLOAT8),
            ("digest", PgType.BYTEA),
            ("sha256", PgType.BYTEA),
            ("data_type", PgType.TEXT),
            ("samples_per_frame", PgType.INT4),
            ("frame_length", PgType.FLOAT8),
            ("byte_count", PgType.INT8),
            ("tail", PgType.BYTEA),
            ("sample_count", PgType.INT8),
            ("expected_count", PgType.INT8),
            ("nonfinite_count", PgType.INT8),
            ("status", PgType.TEXT),
            ("reason", PgType.TEXT),
        ),
    ),
    key=("user_id", "session_id", "track"),
    stamp="updated",
    digest="digest",
    owns=(SAMPLE_CHUNKS,),
    part="session_id",
)

BLOB_MENTIONS = Table(
    "beddit.blob_mentions",
    (
        ("user_id", PgType.INT8),
        ("session_id", PgType.INT8),
        ("track", PgType.TEXT),
        ("updated", PgType.FLOAT8),
    ),
)

BLOB_ATTEMPTS = Table(
    "beddit.blob_attempts",
    (
        ("user_id", PgType.INT8),
        ("session_id", PgType.INT8),
        ("track", PgType.TEXT),
        ("updated", PgType.FLOAT8),
        ("session_digest", PgType.BYTEA),
        ("attempts", PgType.INT4),
        ("status", PgType.TEXT),
        ("reason", PgType.TEXT),
        ("tried_at", PgType.TIMESTAMPTZ),
        ("next_attempt_at", PgType.TIMESTAMPTZ),
    ),
)

# A blob is due when its address was named for its session's version and that was not fetched yet (of a stamp
# whose content has changed: the last attempt tells), or was read in another way than the session now says,
# and no earlier failure asks for patience; a session that was put again is worth trying at once. The time is
# a parameter: the clock that asks for patience is the one that ends it.
DUE_BLOBS = """
    SELECT s.session_id, d.track, d.data_type, d.samples_per_frame, s.frame_length, s.frame_count,
           s.start_timestamp, s.ended_at, s.updated, s.digest AS session_digest,
           CASE WHEN a.next_attempt_at IS NULL THEN 0 ELSE a.attempts END AS attempts,
           coalesce(b.status = 'complete', false) AS has_complete,
           coalesce(b.sample_count, 0) AS stored_count
    FROM beddit.track_declarations d
    JOIN beddit.session_records s USING (user_id, session_id)
    JOIN beddit.blob_mentions m
        ON (m.user_id, m.session_id, m.track) = (d.user_id, d.session_id, d.track)
        AND m.updated IS NOT DISTINCT FROM s.updated
    LEFT JOIN beddit.blob_records b
        ON (b.user_id, b.session_id, b.track) = (d.user_id, d.session_id, d.track)
    LEFT JOIN beddit.blob_attempts a
        ON (a.user_id, a.session_id, a.track) = (d.user_id, d.session_id, d.track)
        AND a.updated IS NOT DISTINCT FROM s.updated AND a.session_digest = s.digest
    WHERE s.user_id = $1
      AND (b.track IS NULL OR b.updated IS DISTINCT FROM s.updated
           OR coalesce(a.status, 'pending') IN ('pending', 'unavailable')
           OR (b.data_type, b.samples_per_frame, b.frame_length, b.expected_count) IS DISTINCT FROM
              (d.data_type, d.samples_per_frame, s.frame_length, s.frame_count * d.samples_per_frame))
      AND (a.next_attempt_at IS NULL OR a.next_attempt_at <= $2)
    ORDER BY s.session_id DESC, d.track
"""

# Sessions of a user that began in a stretch of time, that the source is thought to hold, and that are not
# among some; besides, those that were found to have vanished, where nobody has taken note of it by a repair.
STORED_SESSIONS = """
    SELECT session_id, started_at, missing_upstream_at IS NOT NULL AS is_marked FROM beddit.session_records
    WHERE user_id = $1 AND started_at >= $2 AND started_at < $3 AND session_id <> ALL ($4)
      AND (missing_upstream_at IS NULL OR EXISTS (
          SELECT FROM sync.differences d
          WHERE d.source = 'beddit' AND d.account = $5 AND d.item_key = user_id || '/' || session_id
            AND d.kind = 'vanished' AND d.resolved_at IS NULL))
    ORDER BY session_id DESC
"""

VANISHED = """
    SELECT count(*) FROM beddit.session_records
    WHERE user_id = $1 AND missing_upstream_at IS NOT NULL
      AND ($2::timestamptz IS NULL OR started_at >= $2) AND ($3::timestamptz IS NULL OR started_at < $3)
"""

# Raw signals of sessions that began in a stretch of time, as DUE_BLOBS has them: those that are stored for
# the session's newest version, and those that were due at a moment (what came later is the next pass's). Of
# each: its bytes, if it is stored; whether it was; whether its address was named; and how many samples its
# chunks hold, one after the other, from the first to the last.
STORED_BLOBS = """
    SELECT s.session_id, named.track, coalesce(d.data_type, b.data_type) AS data_type,
           coalesce(d.samples_per_frame, b.samples_per_frame) AS samples_per_frame,
           s.frame_length, s.frame_count, s.start_timestamp, s.ended_at, s.updated,
           s.digest AS session_digest,
           CASE WHEN a.next_attempt_at IS NULL THEN 0 ELSE a.attempts END AS attempts,
           coalesce(b.status = 'complete', false) AS has_complete,
           coalesce(b.sample_count, 0) AS stored_count,
           CASE WHEN of_version.stored THEN b.byte_count END AS byte_count,
           a.status IS NOT NULL AND a.status NOT IN ('pending', 'unavailable') AS was_stored,
           m.track IS NOT NULL AS is_mentioned, s.started_at, chunks.held
    FROM beddit.session_records s
    CROSS JOIN LATERAL (
        SELECT track FROM beddit.track_declarations
        WHERE (user_id, session_id) = (s.user_id, s.session_id)
        UNION
        SELECT track FROM beddit.blob_records WHERE (user_id, session_id) = (s.user_id, s.session_id)
    ) AS named
    LEFT JOIN beddit.track_declarations d
        ON (d.user_id, d.session_id, d.track) = (s.user_id, s.session_id, named.track)
    LEFT JOIN beddit.blob_records b
        ON (b.user_id, b.session_id, b.track) = (s.user_id, s.session_id, named.track)
    LEFT JOIN beddit.blob_mentions m
        ON (m.user_id, m.session_id, m.track) = (s.user_id, s.session_id, named.track)
        AND m.updated IS NOT DISTINCT FROM s.updated
    LEFT JOIN beddit.blob_attempts a
        ON (a.user_id, a.session_id, a.track) = (s.user_id, s.session_id, named.track)
        AND a.updated IS NOT DISTINCT FROM s.updated AND a.session_digest = s.digest
    CROSS JOIN LATERAL (
        SELECT b.track IS NOT NULL AND b.updated IS NOT DISTINCT FROM s.updated AS stored
    ) AS of_version
    CROSS JOIN LATERAL (
        SELECT CASE WHEN coalesce(sum(length), 0) = coalesce(max(first_index + length), 0)
                    THEN coalesce(sum(length), 0)::bigint ELSE -1 END AS held
        FROM (
            SELECT c.first_index,
                   coalesce(cardinality(c.int2s), cardinality(c.int4s), cardinality(c.float4s),
                            cardinality(c.float8s)) AS length
            FROM beddit.sample_chunks c
            WHERE (c.user_id, c.session_id, c.track) = (s.user_id, s.session_id, b.track)
        ) AS chunk
    ) AS chunks
    WHERE s.user_id = $1 AND s.started_at >= $2 AND s.started_at < $3 AND s.missing_upstream_at IS NULL
      AND (of_version.stored
           OR d.track IS NOT NULL AND m.track IS NOT NULL AND s.loaded_at < $4
              AND (a.next_attempt_at IS NULL OR a.next_attempt_at <= $4))
    ORDER BY s.session_id DESC, named.track
"""

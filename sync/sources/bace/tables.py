"""The BACE tables that batches are written to, and the questions asked of them."""

from __future__ import annotations

from sync.model import Head, PgType, Series, Table

SESSION_ACCESS = Table(
    "bace.session_access",
    (
        ("id_data_session", PgType.UUID),
        ("account", PgType.TEXT),
        ("refused_at", PgType.TIMESTAMPTZ),
    ),
)
ACCESS_KEY = ("id_data_session", "account")

SESSIONS = Head(
    noun="data session",
    table=Table(
        "bace.session_records",
        (
            ("id_data_session", PgType.UUID),
            ("id_group", PgType.UUID),
            ("id_person", PgType.UUID),
            ("label", PgType.TEXT),
            ("started_at", PgType.TIMESTAMPTZ),
            ("ended_at", PgType.TIMESTAMPTZ),
            ("created_at", PgType.TIMESTAMPTZ),
            ("created_by", PgType.UUID),
            ("updated_at", PgType.TIMESTAMPTZ),
            ("updated_by", PgType.UUID),
            ("archived_at", PgType.TIMESTAMPTZ),
            ("datapoint_count", PgType.INT8),
            ("is_ingestion_finished", PgType.BOOL),
            ("is_archived", PgType.BOOL),
            ("updated_at_seconds", PgType.FLOAT8),
            ("digest", PgType.BYTEA),
            ("datasets", PgType.UUID_ARRAY),
            ("extra", PgType.JSONB),
        ),
    ),
    key=("id_data_session",),
    stamp="updated_at_seconds",
    digest="digest",
    access=SESSION_ACCESS,
)

DATAPOINTS = Series(
    noun="datapoint",
    table=Table(
        "bace.datapoint_rows",
        (
            ("time", PgType.TIMESTAMPTZ),
            ("id_data_session", PgType.UUID),
            ("id_container_data_latest", PgType.UUID),
            ("value", PgType.FLOAT8),
            ("min_value", PgType.FLOAT8),
            ("max_value", PgType.FLOAT8),
            ("count", PgType.INT4),
        ),
    ),
    key="id_data_session",
    part_of="id_container_data_latest",
    time="time",
    weight="count",
    loads="bace.session_loads",
)

# A raw sample is nothing but its value.
SAMPLES = Table(DATAPOINTS.table.name, DATAPOINTS.table.columns[:4])

SESSION_CHECKS = Table(
    "bace.session_checks",
    (
        ("id_data_session", PgType.UUID),
        ("digest", PgType.BYTEA),
        ("status", PgType.TEXT),
        ("reason", PgType.TEXT),
        ("attempts", PgType.INT4),
        ("news_at", PgType.TIMESTAMPTZ),
        ("checked_at", PgType.TIMESTAMPTZ),
        ("next_check_at", PgType.TIMESTAMPTZ),
    ),
)
CHECK_KEY = ("id_data_session",)

DATASETS = Table(
    "bace.dataset_records",
    (
        ("id_container_data_latest", PgType.UUID),
        ("id_group", PgType.UUID),
        ("source_device", PgType.UUID),
        ("datatype", PgType.INT4),
    ),
)

GROUPS = Table(
    "bace.group_records",
    (
        ("id_group", PgType.UUID),
        ("label", PgType.TEXT),
        ("type", PgType.TEXT),
        ("type_label", PgType.TEXT),
        ("subtype", PgType.TEXT),
        ("id_country", PgType.UUID),
        ("created_at", PgType.TIMESTAMPTZ),
        ("deleted_at", PgType.TIMESTAMPTZ),
        ("extra", PgType.JSONB),
    ),
)

DEVICES = Table(
    "bace.device_records",
    (
        ("id_physical_device", PgType.UUID),
        ("serial_hardware", PgType.TEXT),
        ("label", PgType.TEXT),
        ("id_parent", PgType.UUID),
        ("id_group", PgType.UUID),
        ("id_device_type", PgType.TEXT),
        ("last_data_at", PgType.TIMESTAMPTZ),
        ("created_at", PgType.TIMESTAMPTZ),
        ("extra", PgType.JSONB),
    ),
)

DATATYPES = Table(
    "bace.datatype_records",
    (("datatype", PgType.INT4), ("label", PgType.TEXT), ("extra", PgType.JSONB)),
)

PERSONS = Table(
    "bace.person_records",
    (("id_person", PgType.UUID), ("label", PgType.TEXT), ("extra", PgType.JSONB)),
)

# What is known of some sessions, as an account sees them: an equal digest means equal fields.
KNOWN_SESSIONS = """
    SELECT r.id_data_session, r.digest, r.missing_upstream_at IS NOT NULL AS missing,
           a.account IS NOT NULL AS listed, a.refused_at
    FROM bace.session_records r
    LEFT JOIN bace.session_access a ON a.id_data_session = r.id_data_session AND a.account = $2
    WHERE r.id_data_session = ANY ($1)
"""

# The sessions that an account is thought to see.
SESSIONS_OF_ACCOUNT = """
    SELECT a.id_data_session FROM bace.session_access a
    JOIN bace.session_records r USING (id_data_session)
    WHERE a.account = $1 AND a.refused_at IS NULL
    ORDER BY r.started_at DESC, a.id_data_session
"""

COUNT_OF_ACCOUNT = """
    SELECT count(*) AS sessions FROM bace.session_access a
    JOIN bace.session_records r USING (id_data_session)
    WHERE a.account = $1 AND a.refused_at IS NULL
"""

# Which of some items are rejected already.
KNOWN_REJECTS = """
    SELECT item_key FROM sync.reject_log
    WHERE source = $1 AND account = $2 AND item_key = ANY ($3) AND resolved_at IS NULL
"""

# Which of some sessions one of these accounts sees.
SEEN_BY = """
    SELECT DISTINCT id_data_session FROM bace.session_access
    WHERE id_data_session = ANY ($1) AND account = ANY ($2) AND refused_at IS NULL
"""

# Sessions of an account, one of the configured ones ($2), that may still change and are due. One without a
# check was never read, which is a reason of its own to ask.
DUE_NON_FINAL = """
    SELECT r.id_data_session
    FROM bace.session_records r
    JOIN bace.sessions_of($1, $2) USING (id_data_session)
    LEFT JOIN bace.session_checks c USING (id_data_session)
    WHERE (r.ended_at IS NULL OR r.is_ingestion_finished IS NOT TRUE) AND r.missing_upstream_at IS NULL
      AND (c.id_data_session IS NULL OR c.next_check_at <= $3)
    ORDER BY r.started_at DESC, r.id_data_session
"""

# Sessions of an account (see DUE_NON_FINAL) whose data has to be read or looked at again: never checked,
# changed since, or due; within a range of starts ($4, $5), newest first, behind one of them ($6, $7), and of
# chosen ones alone ($9).
DUE_SESSIONS = """
    SELECT r.id_data_session, r.started_at, r.ended_at, r.updated_at, r.datapoint_count, r.digest, r.datasets,
           r.ended_at IS NOT NULL AND r.is_ingestion_finished IS TRUE AS final,
           c.digest AS checked_digest, c.status AS checked_status, c.reason AS checked_reason,
           c.attempts, c.news_at
    FROM bace.session_records r
    JOIN bace.sessions_of($1, $2) USING (id_data_session)
    LEFT JOIN bace.session_checks c USING (id_data_session)
    WHERE r.missing_upstream_at IS NULL AND r.started_at IS NOT NULL
      AND (c.id_data_session IS NULL OR c.digest <> r.digest OR c.next_check_at <= $3)
      AND ($4::timestamptz IS NULL OR r.started_at >= $4)
      AND ($5::timestamptz IS NULL OR r.started_at < $5)
      AND ($6::timestamptz IS NULL OR (r.started_at, r.id_data_session) < ($6, $7::uuid))
      AND ($9::uuid[] IS NULL OR r.id_data_session = ANY ($9))
    ORDER BY r.started_at DESC, r.id_data_session DESC
    LIMIT $8
"""

SESSION_LOADS = """
    SELECT part, datasets, raw_coverage, loaded_count FROM bace.session_loads
    WHERE id_data_session = $1 ORDER BY part
"""

NEWEST_DATAPOINT = "SELECT max(time) AS newest FROM bace.datapoint_rows WHERE id_data_session = $1"

# What is stored of a session and what was rejected; whether some of that is worth reading again, which what a
# person settled is not.
SESSION_COUNTS = """
    SELECT (SELECT coalesce(sum(loaded_count), 0)::bigint FROM bace.session_loads
            WHERE id_data_session = $1) AS loaded,
           rejects.rejected, rejects.hopeful
    FROM (
        SELECT coalesce(sum(items), 0)::bigint AS rejected,
               coalesce(bool_or(resolved_at IS NULL), false) AS hopeful
        FROM sync.reject_log
        WHERE source = 'bace' AND record_key = $1::uuid::text
          AND instant IS NOT NULL AND (resolved_at IS NULL OR settled)
    ) AS rejects
"""

# Which of some stretches hold no datapoint of a session.
HOLLOW = """
    SELECT gap.number FROM unnest($2::timestamptz[], $3::timestamptz[])
        WITH ORDINALITY AS gap (start, "end", number)
    WHERE NOT EXISTS (
        SELECT FROM bace.datapoint_rows d
        WHERE d.id_data_session = $1 AND d.time >= gap.start AND d.time < gap."end")
"""

# What is stored of a session in buckets of $4 microseconds.
STORED_BUCKETS = """
    SELECT id_container_data_latest,
           floor(extract(epoch FROM time) * 1000000 / $4::bigint)::bigint * $4::bigint AS start,
           sum(coalesce(count, 1))::bigint AS count,
           min(coalesce(min_value, value)) AS least, max(coalesce(max_value, value)) AS most,
           sum(value * coalesce(count, 1)) AS total
    FROM bace.datapoint_rows
    WHERE id_data_session = $1 AND time >= $2 AND time < $3
    GROUP BY 1, 2
"""

# What was read of an account's sessions (see DUE_NON_FINAL) that began within a range of starts ($3, $4).
LOADS_IN_RANGE = """
    SELECT l.id_data_session, l.part, l.datasets, l.raw_coverage
    FROM bace.session_records r
    JOIN bace.sessions_of($1, $2) USING (id_data_session)
    JOIN bace.session_loads l USING (id_data_session)
    WHERE ($3::timestamptz IS NULL OR r.started_at >= $3) AND ($4::timestamptz IS NULL OR r.started_at < $4)
    ORDER BY r.started_at DESC, r.id_data_session, l.part
"""

# Sessions of an account (see DUE_NON_FINAL), of those named in $3, as DUE_SESSIONS has them.
SESSIONS_TO_COMPARE = """
    SELECT r.id_data_session, r.started_at, r.ended_at, r.updated_at, r.datapoint_count, r.digest, r.datasets,
           r.ended_at IS NOT NULL AND r.is_ingestion_finished IS TRUE AS final,
           c.digest AS checked_digest, c.status AS checked_status, c.reason AS checked_reason,
           c.attempts, c.news_at,
           r.is_archived IS TRUE AS archived
    FROM bace.session_records r
    JOIN bace.sessions_of($1, $2) USING (id_data_session)
    LEFT JOIN bace.session_checks c USING (id_data_session)
    WHERE r.missing_upstream_at IS NULL AND r.started_at IS NOT NULL AND r.id_data_session = ANY ($3)
    ORDER BY r.started_at DESC, r.id_data_session DESC
"""

# All that an account reads and that the source is thought to hold, and which datasets are in it; none where
# the source did not say.
SESSIONS_OWNED = """
    SELECT r.id_data_session, r.started_at, r.ended_at,
           r.ended_at IS NOT NULL AND r.is_ingestion_finished IS TRUE AS final,
           coalesce(r.datasets, '{}') AS datasets
    FROM bace.session_records r
    JOIN bace.sessions_of($1, $2) USING (id_data_session)
    WHERE r.missing_upstream_at IS NULL AND r.started_at IS NOT NULL
"""

# Sessions that were found to have vanished, where nobody has taken note of it by a repair.
STILL_VANISHED = """
    SELECT r.id_data_session, r.started_at
    FROM bace.session_records r JOIN sync.differences d ON d.item_key = r.id_data_session::text
    WHERE d.source = 'bace' AND d.account = $1 AND d.kind = 'vanished' AND d.resolved_at IS NULL
      AND r.missing_upstream_at IS NOT NULL AND r.started_at IS NOT NULL
"""

VANISHED = """
    SELECT count(*) FROM bace.session_records r JOIN bace.session_access a USING (id_data_session)
    WHERE a.account = $1 AND r.missing_upstream_at IS NOT NULL
      AND ($2::timestamptz IS NULL OR r.started_at >= $2) AND ($3::timestamptz IS NULL OR r.started_at < $3)
"""

# What is stored of all sessions in a stretch of time, by session, in buckets as of STORED_BUCKETS ($3); and
# whether the source may have put a session's data away. Session by session, along the index.
STORED_BY_SESSION = """
    SELECT r.id_data_session, r.is_archived IS TRUE OR r.missing_upstream_at IS NOT NULL AS put_away, b.*
    FROM bace.session_records r
    CROSS JOIN LATERAL (
        SELECT d.id_container_data_latest,
               floor(extract(epoch FROM d.time) * 1000000 / $3::bigint)::bigint * $3::bigint AS start,
               sum(coalesce(d.count, 1))::bigint AS count,
               min(coalesce(d.min_value, d.value)) AS least, max(coalesce(d.max_value, d.value)) AS most,
               sum(d.value * coalesce(d.count, 1)) AS total
        FROM bace.datapoint_rows d
        WHERE d.id_data_session = r.id_data_session AND d.time >= $1 AND d.time < $2
        GROUP BY 1, 2
    ) AS b
"""

# What was read of some sessions.
LOADS_OF_SESSIONS = """
    SELECT id_data_session, part, datasets FROM bace.session_loads
    WHERE id_data_session = ANY ($1) ORDER BY id_data_session, part
"""

# Which of some sessions ($3) an account (see DUE_NON_FINAL) reads.
READ_BY_ACCOUNT = """
    SELECT id_data_session FROM bace.sessions_of($1, $2) WHERE id_data_session = ANY ($3)
"""

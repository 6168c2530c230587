"""The BACE tables that batches are written to, and the questions asked of them."""

from __future__ import annotations

from sync.model import Head, PgType, Series, Table

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

SESSION_ACCESS = Table(
    "bace.session_access",
    (
        ("id_data_session", PgType.UUID),
        ("account", PgType.TEXT),
        ("refused_at", PgType.TIMESTAMPTZ),
    ),
)
ACCESS_KEY = ("id_data_session", "account")

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

# Which of some sessions one of these accounts sees.
SEEN_BY = """
    SELECT DISTINCT id_data_session FROM bace.session_access
    WHERE id_data_session = ANY ($1) AND account = ANY ($2) AND refused_at IS NULL
"""

# Sessions that may still change, are due, and belong to an account: the first of the configured ones ($2)
# that was not refused. One without a check was never read, which is a reason of its own to ask.
DUE_NON_FINAL = """
    SELECT r.id_data_session
    FROM bace.session_records r
    JOIN LATERAL (
        SELECT a.account FROM bace.session_access a
        WHERE a.id_data_session = r.id_data_session AND a.account = ANY ($2) AND a.refused_at IS NULL
        ORDER BY a.first_seen_at, a.account LIMIT 1
    ) owner ON owner.account = $1
    LEFT JOIN bace.session_checks c USING (id_data_session)
    WHERE (r.ended_at IS NULL OR r.is_ingestion_finished IS NOT TRUE) AND r.missing_upstream_at IS NULL
      AND (c.id_data_session IS NULL OR c.next_check_at <= $3)
    ORDER BY r.started_at DESC, r.id_data_session
"""

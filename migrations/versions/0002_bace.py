"""The BACE warehouse (schema bace), and rejects that belong to a stretch of time.

Conventions beside those of 0001:

* datapoint_rows has no foreign key and no unique index, and its time is never NULL: it can become a
  hypertable partitioned on time.
* Only what is written together with the rows may say what is loaded: session_loads. What was concluded from
  that, the proof, is in session_checks and names the version of the session that it holds for.
"""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    # -- rejects of stretches of time -------------------------------------------------------------
    """
    ALTER TABLE sync.reject_log
        ADD COLUMN part smallint,
        ADD COLUMN instant timestamptz,
        ADD COLUMN items bigint NOT NULL DEFAULT 1
    """,
    "COMMENT ON COLUMN sync.reject_log.part IS 'The group of data sets that it was read with'",
    """
    COMMENT ON COLUMN sync.reject_log.instant IS
    'When it happened: resolved when that time is read again without it; NULL where a record is read whole'
    """,
    "COMMENT ON COLUMN sync.reject_log.items IS 'How many source items it stands for; 0 for a mere note'",
    """
    CREATE INDEX reject_log_instant ON sync.reject_log (record_key, instant)
    WHERE resolved_at IS NULL AND instant IS NOT NULL
    """,
    # -- data sessions ----------------------------------------------------------------------------
    """
    CREATE TABLE bace.session_records (
        id_data_session uuid PRIMARY KEY,
        id_group uuid,
        id_person uuid,
        label text,
        started_at timestamptz,
        ended_at timestamptz,
        created_at timestamptz,
        created_by uuid,
        updated_at timestamptz,
        updated_by uuid,
        archived_at timestamptz,
        datapoint_count bigint,
        is_ingestion_finished boolean,
        is_archived boolean,
        updated_at_seconds float8,
        digest bytea NOT NULL,
        datasets uuid[],
        extra jsonb,
        loaded_at timestamptz NOT NULL DEFAULT now(),
        missing_upstream_at timestamptz
    )
    """,
    "CREATE INDEX session_records_started_at ON bace.session_records (started_at)",
    "COMMENT ON TABLE bace.session_records IS 'The newest version of each data session'",
    "COMMENT ON COLUMN bace.session_records.updated_at_seconds IS 'updated_at as received: orders the versions'",
    "COMMENT ON COLUMN bace.session_records.digest IS 'Of the row as received, without its datasets'",
    "COMMENT ON COLUMN bace.session_records.datasets IS 'What the source says is in it; NULL: it did not say'",
    """
    CREATE TABLE bace.session_access (
        id_data_session uuid NOT NULL,
        account text NOT NULL,
        first_seen_at timestamptz NOT NULL DEFAULT now(),
        refused_at timestamptz,
        PRIMARY KEY (id_data_session, account)
    )
    """,
    """
    COMMENT ON TABLE bace.session_access IS
    'Which accounts see a session; bace.sessions_of says which of them reads it'
    """,
    "COMMENT ON COLUMN bace.session_access.refused_at IS 'When the source last denied the session to the account'",
    """
    CREATE FUNCTION bace.sessions_of(account text, accounts text[])
    RETURNS TABLE (id_data_session uuid) LANGUAGE sql STABLE AS $$
        SELECT owner.id_data_session
        FROM (
            SELECT DISTINCT ON (a.id_data_session) a.id_data_session, a.account
            FROM (
                SELECT a.*, coalesce(s.last_success_at, '-infinity') AS succeeded_at,
                       max(s.last_success_at) OVER (PARTITION BY a.id_data_session) AS newest_success_at
                FROM bace.session_access a
                LEFT JOIN sync.stream_state s
                    ON s.source = 'bace' AND s.stream = 'sessions' AND s.account = a.account
                WHERE a.account = ANY (sessions_of.accounts) AND a.refused_at IS NULL
            ) AS a
            ORDER BY a.id_data_session,
                     a.succeeded_at < a.newest_success_at - interval '1 day', a.first_seen_at, a.account
        ) AS owner
        WHERE owner.account = sessions_of.account
    $$
    """,
    """
    COMMENT ON FUNCTION bace.sessions_of IS
    'The sessions that an account reads: of the configured accounts that see a session and were not refused,'
    ' the first one, unless its last success is a day older than that of another one'
    """,
    # -- datapoints -------------------------------------------------------------------------------
    """
    CREATE TABLE bace.datapoint_rows (
        time timestamptz NOT NULL,
        id_data_session uuid NOT NULL,
        id_container_data_latest uuid NOT NULL,
        value float8,
        min_value float8,
        max_value float8,
        count int
    )
    """,
    "CREATE INDEX datapoint_rows_session ON bace.datapoint_rows (id_data_session, time)",
    """
    COMMENT ON TABLE bace.datapoint_rows IS
    'Datapoints; min_value, max_value and count are NULL for a raw one: both are its value, and it counts 1'
    """,
    """
    CREATE TABLE bace.session_loads (
        id_data_session uuid NOT NULL,
        part smallint NOT NULL,
        datasets uuid[],
        raw_coverage tstzmultirange NOT NULL DEFAULT '{}',
        loaded_count bigint NOT NULL DEFAULT 0,
        PRIMARY KEY (id_data_session, part)
    )
    """,
    """
    COMMENT ON TABLE bace.session_loads IS
    'What is loaded of a session, one row per group of datasets; written only together with the datapoints'
    """,
    "COMMENT ON COLUMN bace.session_loads.part IS 'Which group of datasets, from 0'",
    "COMMENT ON COLUMN bace.session_loads.datasets IS 'The group; NULL: all that there are'",
    "COMMENT ON COLUMN bace.session_loads.raw_coverage IS 'Time whose raw datapoints are stored, proven'",
    """
    COMMENT ON COLUMN bace.session_loads.loaded_count IS
    'Datapoints that came less those that went with this group; only the sum over a session is a count, '
    'for datasets move between groups'
    """,
    """
    CREATE TABLE bace.session_checks (
        id_data_session uuid PRIMARY KEY,
        digest bytea NOT NULL,
        status text NOT NULL,
        reason text,
        attempts int NOT NULL DEFAULT 0,
        news_at timestamptz,
        checked_at timestamptz NOT NULL DEFAULT now(),
        next_check_at timestamptz
    )
    """,
    """
    COMMENT ON TABLE bace.session_checks IS
    'What comparing a session with the source came to, and when it will be compared again'
    """,
    "COMMENT ON COLUMN bace.session_checks.digest IS 'The version of the session that was compared'",
    "COMMENT ON COLUMN bace.session_checks.status IS 'open, complete or incomplete'",
    "COMMENT ON COLUMN bace.session_checks.attempts IS 'Comparisons of this version'",
    "COMMENT ON COLUMN bace.session_checks.news_at IS 'When reading it last brought something new'",
    "COMMENT ON COLUMN bace.session_checks.next_check_at IS 'NULL: not before the session changes'",
    # -- what datapoints and sessions refer to ----------------------------------------------------
    """
    CREATE TABLE bace.dataset_records (
        id_container_data_latest uuid PRIMARY KEY,
        id_group uuid,
        source_device uuid,
        datatype int
    )
    """,
    "COMMENT ON TABLE bace.dataset_records IS 'Datasets: one per combination of group, device and datatype'",
    """
    CREATE TABLE bace.group_records (
        id_group uuid PRIMARY KEY,
        label text,
        type text,
        type_label text,
        subtype text,
        id_country uuid,
        created_at timestamptz,
        deleted_at timestamptz,
        extra jsonb
    )
    """,
    "COMMENT ON TABLE bace.group_records IS 'Groups, as last seen'",
    """
    CREATE TABLE bace.device_records (
        id_physical_device uuid PRIMARY KEY,
        serial_hardware text,
        label text,
        id_parent uuid,
        id_group uuid,
        id_device_type text,
        last_data_at timestamptz,
        created_at timestamptz,
        extra jsonb
    )
    """,
    "COMMENT ON TABLE bace.device_records IS 'Physical devices, as last seen'",
    """
    CREATE TABLE bace.datatype_records (
        datatype int PRIMARY KEY,
        label text,
        extra jsonb
    )
    """,
    "COMMENT ON TABLE bace.datatype_records IS 'Datatypes, as last seen'",
    """
    CREATE TABLE bace.person_records (
        id_person uuid PRIMARY KEY,
        label text,
        extra jsonb
    )
    """,
    "COMMENT ON TABLE bace.person_records IS 'Persons, as last seen'",
    # -- the contract -----------------------------------------------------------------------------
    # A group of datasets that was never read is covered nowhere: hence the first branch of raw_coverage.
    """
    CREATE VIEW bace.data_sessions AS
    SELECT r.id_data_session, r.id_group, r.id_person, r.label, r.started_at, r.ended_at, r.created_at,
           r.created_by, r.updated_at, r.updated_by, r.archived_at, r.datapoint_count,
           r.is_ingestion_finished, r.is_archived,
           coalesce(loads.loaded_count, 0)::bigint AS loaded_count,
           (SELECT coalesce(sum(j.items), 0)::bigint FROM sync.reject_log j
            WHERE j.source = 'bace' AND j.record_key = r.id_data_session::text
              AND j.resolved_at IS NULL AND j.instant IS NOT NULL) AS rejected_count,
           CASE WHEN EXISTS (
                    SELECT FROM unnest(r.datasets) AS dataset WHERE NOT EXISTS (
                        SELECT FROM bace.session_loads l WHERE l.id_data_session = r.id_data_session
                        AND (l.datasets IS NULL OR dataset = ANY (l.datasets))))
                THEN '{}'
                ELSE coalesce(loads.raw_coverage, '{}') END AS raw_coverage,
           CASE WHEN r.ended_at IS NULL OR r.is_ingestion_finished IS NOT TRUE THEN 'open'
                WHEN c.digest = r.digest THEN c.status
                ELSE 'loading' END AS status,
           CASE WHEN r.ended_at IS NULL THEN 'the session has not ended'
                WHEN r.is_ingestion_finished IS NOT TRUE THEN 'the source has not finished ingesting it'
                WHEN c.digest = r.digest THEN c.reason
                WHEN c.digest IS NOT NULL THEN 'changed upstream since it was last checked'
                WHEN loads.parts > 0 THEN 'not read to its end yet'
                ELSE 'not read yet' END AS status_reason,
           r.missing_upstream_at, r.extra
    FROM bace.session_records r
    LEFT JOIN bace.session_checks c USING (id_data_session)
    CROSS JOIN LATERAL (
        SELECT count(*) AS parts, sum(l.loaded_count) AS loaded_count,
               range_intersect_agg(l.raw_coverage) AS raw_coverage
        FROM bace.session_loads l WHERE l.id_data_session = r.id_data_session
    ) AS loads
    """,
    "COMMENT ON VIEW bace.data_sessions IS 'One row per data session'",
    """
    COMMENT ON COLUMN bace.data_sessions.datapoint_count IS 'Datapoints that the source says it holds'
    """,
    """
    COMMENT ON COLUMN bace.data_sessions.loaded_count IS
    'Datapoints that are stored; a row that aggregates some counts as many'
    """,
    """
    COMMENT ON COLUMN bace.data_sessions.rejected_count IS
    'Datapoints that could not become rows; sync.rejects has the reasons'
    """,
    """
    COMMENT ON COLUMN bace.data_sessions.raw_coverage IS
    'Time in which the raw datapoints of all datasets are stored, empty stretches included'
    """,
    """
    COMMENT ON COLUMN bace.data_sessions.status IS
    'open (still running or being ingested), loading (not proved yet), complete (proved: all there), '
    'incomplete (status_reason says what is missing; tried again)'
    """,
    "COMMENT ON COLUMN bace.data_sessions.status_reason IS 'Why it is not complete'",
    """
    COMMENT ON COLUMN bace.data_sessions.missing_upstream_at IS
    'When the source was seen to hold it no longer'
    """,
    "COMMENT ON COLUMN bace.data_sessions.extra IS 'Fields that the vendor''s documents do not name'",
    """
    CREATE VIEW bace.datapoints AS
    SELECT p.id_data_session, p.id_container_data_latest, d.id_group, d.source_device, d.datatype, p.time,
           p.value, coalesce(p.min_value, p.value) AS min_value, coalesce(p.max_value, p.value) AS max_value,
           coalesce(p.count, 1)::bigint AS count
    FROM bace.datapoint_rows p
    LEFT JOIN bace.dataset_records d USING (id_container_data_latest)
    """,
    "COMMENT ON VIEW bace.datapoints IS 'Every datapoint of every data session'",
    "COMMENT ON COLUMN bace.datapoints.value IS 'The value; of an aggregate the average'",
    """
    COMMENT ON COLUMN bace.datapoints.count IS
    '1 for a raw datapoint; more where the source holds several at one instant and tells them only together'
    """,
    """
    CREATE VIEW bace.datasets AS
    SELECT id_container_data_latest, id_group, source_device, datatype FROM bace.dataset_records
    """,
    "COMMENT ON VIEW bace.datasets IS 'One row per combination of group, device and datatype'",
    """
    CREATE VIEW bace.groups AS
    SELECT id_group, label, type, type_label, subtype, id_country, created_at, deleted_at, extra
    FROM bace.group_records
    """,
    "COMMENT ON VIEW bace.groups IS 'One row per group'",
    """
    CREATE VIEW bace.devices AS
    SELECT id_physical_device, serial_hardware, label, id_parent, id_group, id_device_type, last_data_at,
           created_at, extra
    FROM bace.device_records
    """,
    "COMMENT ON VIEW bace.devices IS 'One row per physical device'",
    "CREATE VIEW bace.datatypes AS SELECT datatype, label, extra FROM bace.datatype_records",
    "COMMENT ON VIEW bace.datatypes IS 'One row per datatype: the codes in bace.datapoints'",
    "CREATE VIEW bace.persons AS SELECT id_person, label, extra FROM bace.person_records",
    "COMMENT ON VIEW bace.persons IS 'One row per person'",
)


def upgrade() -> None:
    op.execute("CREATE SCHEMA bace")
    for statement in STATEMENTS:
        op.execute(statement)

"""The ledger (schema sync) and the Beddit warehouse (schema beddit).

Views and functions are the contract with users; the tables behind them may change. Conventions:

* The large tables (track_arrays, sample_chunks) have no foreign key and no unique index: a range of a
  compressed hypertable can only be replaced quickly without them. Their session_id, the session's start in
  seconds, is what they can be partitioned on.
* A record table carries a version (stamp, digest) and is written first: its row lock serialises writers.
"""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    # -- time -------------------------------------------------------------------------------------
    """
    CREATE FUNCTION sync.instant(seconds float8) RETURNS timestamptz
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN timestamptz 'epoch' + round(seconds * 1e6) * interval '1 microsecond'
    """,
    """
    COMMENT ON FUNCTION sync.instant IS
    'Unix seconds to an instant, computed once in float8 and rounded half to even to microseconds'
    """,
    # -- progress ---------------------------------------------------------------------------------
    """
    CREATE TABLE sync.stream_state (
        source text NOT NULL,
        account text NOT NULL,
        stream text NOT NULL,
        cursor jsonb,
        coverage tstzmultirange NOT NULL DEFAULT '{}',
        last_success_at timestamptz,
        last_error text,
        last_error_at timestamptz,
        PRIMARY KEY (source, account, stream)
    )
    """,
    """
    CREATE VIEW sync.streams AS
    SELECT source, account, stream, cursor, coverage, last_success_at, last_error,
           now() - last_success_at AS lag
    FROM sync.stream_state
    """,
    "COMMENT ON VIEW sync.streams IS 'How far each stream of each account is'",
    "COMMENT ON COLUMN sync.streams.coverage IS 'Time whose sessions have all been read; a gap was not read yet'",
    "COMMENT ON COLUMN sync.streams.lag IS 'Time since the last successful check of the source'",
    "COMMENT ON COLUMN sync.streams.last_error IS 'Why the last attempt failed; NULL after a success'",
    """
    CREATE TABLE sync.knowledge (
        source text NOT NULL,
        name text NOT NULL,
        value jsonb NOT NULL,
        learned_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (source, name)
    )
    """,
    "COMMENT ON TABLE sync.knowledge IS 'Hints learned about a vendor; safe to delete'",
    # -- ledger -----------------------------------------------------------------------------------
    """
    CREATE TABLE sync.run_log (
        run_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        source text NOT NULL,
        account text NOT NULL,
        task text NOT NULL,
        started_at timestamptz NOT NULL DEFAULT now(),
        finished_at timestamptz,
        outcome text NOT NULL DEFAULT 'running',
        read bigint NOT NULL DEFAULT 0,
        stored bigint NOT NULL DEFAULT 0,
        unchanged bigint NOT NULL DEFAULT 0,
        superseded bigint NOT NULL DEFAULT 0,
        duplicate bigint NOT NULL DEFAULT 0,
        rejected bigint NOT NULL DEFAULT 0,
        requests bigint NOT NULL DEFAULT 0,
        bytes bigint NOT NULL DEFAULT 0,
        error text
    )
    """,
    "CREATE INDEX run_log_started_at ON sync.run_log (started_at)",
    """
    CREATE VIEW sync.runs AS
    SELECT run_id, source, account, task, started_at, finished_at, outcome,
           read, stored, unchanged, superseded, duplicate, rejected, requests, bytes, error
    FROM sync.run_log
    """,
    """
    COMMENT ON VIEW sync.runs IS
    'One row per run and account: read = stored + unchanged + superseded + duplicate + rejected, in items '
    '(a session and each of its points, a blob and each of its samples)'
    """,
    "COMMENT ON COLUMN sync.runs.outcome IS 'running, done, failed or interrupted'",
    "COMMENT ON COLUMN sync.runs.superseded IS 'Items of versions older than what is stored'",
    "COMMENT ON COLUMN sync.runs.duplicate IS 'Items that one answer held twice'",
    """
    CREATE TABLE sync.reject_log (
        source text NOT NULL,
        account text NOT NULL,
        record_key text NOT NULL,
        item_key text NOT NULL,
        reason text NOT NULL,
        payload jsonb,
        attempts int NOT NULL DEFAULT 1,
        first_seen_at timestamptz NOT NULL DEFAULT now(),
        last_seen_at timestamptz NOT NULL DEFAULT now(),
        resolved_at timestamptz,
        PRIMARY KEY (source, account, item_key)
    )
    """,
    "CREATE INDEX reject_log_record ON sync.reject_log (source, account, record_key) WHERE resolved_at IS NULL",
    """
    CREATE VIEW sync.rejects AS
    SELECT source, account, item_key, reason, payload, attempts, first_seen_at, last_seen_at, resolved_at
    FROM sync.reject_log
    """,
    "COMMENT ON VIEW sync.rejects IS 'Items that could not become rows; resolved when their record came whole'",
    # -- beddit: sessions -------------------------------------------------------------------------
    """
    CREATE TABLE beddit.session_records (
        user_id bigint NOT NULL,
        session_id bigint NOT NULL,
        start_timestamp float8 NOT NULL,
        started_at timestamptz NOT NULL,
        ended_at timestamptz,
        timezone text,
        night date NOT NULL,
        hardware text,
        software text,
        frame_length float8,
        frame_count bigint,
        error_code int,
        updated float8,
        digest bytea NOT NULL,
        extra jsonb,
        loaded_at timestamptz NOT NULL DEFAULT now(),
        missing_upstream_at timestamptz,
        PRIMARY KEY (user_id, session_id)
    )
    """,
    "CREATE INDEX session_records_night ON beddit.session_records (night)",
    """
    CREATE VIEW beddit.sessions AS
    SELECT user_id, session_id, started_at, ended_at, timezone, night, hardware, software, frame_length,
           error_code, updated, extra, loaded_at, missing_upstream_at
    FROM beddit.session_records
    """,
    "COMMENT ON VIEW beddit.sessions IS 'One row per sleep session'",
    """
    COMMENT ON COLUMN beddit.sessions.night IS
    'Local date on which the session ended (on which it began, where no end is known)'
    """,
    "COMMENT ON COLUMN beddit.sessions.updated IS 'Unix seconds of the version stored, by the server''s clock'",
    "COMMENT ON COLUMN beddit.sessions.extra IS 'Fields that the vendor''s documents do not name'",
    "COMMENT ON COLUMN beddit.sessions.missing_upstream_at IS 'When the source was seen to hold it no longer'",
    # -- beddit: time-value tracks ----------------------------------------------------------------
    """
    CREATE TABLE beddit.track_arrays (
        session_id bigint NOT NULL,
        user_id bigint NOT NULL,
        track text NOT NULL,
        value_data_type text,
        extra jsonb,
        indexes int4[],
        offsets float8[] NOT NULL,
        times timestamptz[] NOT NULL,
        "values" float8[] NOT NULL
    )
    """,
    "CREATE INDEX track_arrays_session ON beddit.track_arrays (session_id, user_id)",
    # Compressing them saves a third of the space and costs more than the rest of the load together.
    "ALTER TABLE beddit.track_arrays ALTER offsets SET STORAGE EXTERNAL",
    "ALTER TABLE beddit.track_arrays ALTER times SET STORAGE EXTERNAL",
    'ALTER TABLE beddit.track_arrays ALTER "values" SET STORAGE EXTERNAL',
    "COMMENT ON COLUMN beddit.track_arrays.indexes IS 'Positions in the answer, where rejected items left gaps'",
    """
    CREATE VIEW beddit.track_values AS
    SELECT t.user_id, t.session_id, t.track, coalesce(item.index, item.ordinal::int - 1) AS index,
           item.offset_seconds, item.time, item.value
    FROM beddit.track_arrays t
    CROSS JOIN LATERAL unnest(t.offsets, t.times, t."values", t.indexes)
        WITH ORDINALITY AS item (offset_seconds, time, value, index, ordinal)
    """,
    "COMMENT ON VIEW beddit.track_values IS 'Every item of every time-value track'",
    "COMMENT ON COLUMN beddit.track_values.index IS 'Position in the vendor''s answer, from 0'",
    "COMMENT ON COLUMN beddit.track_values.offset_seconds IS 'The item''s time as received: seconds from the start'",
    # -- beddit: sampled tracks -------------------------------------------------------------------
    """
    CREATE TABLE beddit.track_declarations (
        session_id bigint NOT NULL,
        user_id bigint NOT NULL,
        track text NOT NULL,
        data_type text,
        samples_per_frame int,
        extra jsonb
    )
    """,
    "CREATE INDEX track_declarations_session ON beddit.track_declarations (session_id, user_id)",
    "COMMENT ON TABLE beddit.track_declarations IS 'What the newest version of a session says of its raw signal'",
    """
    CREATE TABLE beddit.blob_mentions (
        user_id bigint NOT NULL,
        session_id bigint NOT NULL,
        track text NOT NULL,
        updated float8,
        PRIMARY KEY (user_id, session_id, track)
    )
    """,
    """
    COMMENT ON TABLE beddit.blob_mentions IS
    'Raw signals whose address the vendor has named. The addresses are credentials and never stored'
    """,
    "COMMENT ON COLUMN beddit.blob_mentions.updated IS 'The session version that the address was named for'",
    """
    CREATE TABLE beddit.blob_records (
        user_id bigint NOT NULL,
        session_id bigint NOT NULL,
        track text NOT NULL,
        updated float8,
        digest bytea NOT NULL,
        sha256 bytea NOT NULL,
        data_type text,
        samples_per_frame int,
        frame_length float8,
        byte_count bigint NOT NULL,
        tail bytea,
        sample_count bigint,
        expected_count bigint,
        nonfinite_count bigint,
        status text NOT NULL,
        reason text,
        loaded_at timestamptz NOT NULL DEFAULT now(),
        missing_upstream_at timestamptz,
        PRIMARY KEY (user_id, session_id, track)
    )
    """,
    "COMMENT ON TABLE beddit.blob_records IS 'Blobs that were downloaded whole'",
    "COMMENT ON COLUMN beddit.blob_records.tail IS 'Bytes at the end that are no whole sample'",
    "COMMENT ON COLUMN beddit.blob_records.digest IS 'Of the bytes and of how they are read'",
    "COMMENT ON COLUMN beddit.blob_records.updated IS 'The session version that the blob was listed with'",
    """
    CREATE TABLE beddit.blob_attempts (
        user_id bigint NOT NULL,
        session_id bigint NOT NULL,
        track text NOT NULL,
        updated float8,
        attempts int NOT NULL,
        status text NOT NULL,
        reason text,
        tried_at timestamptz NOT NULL,
        next_attempt_at timestamptz,
        PRIMARY KEY (user_id, session_id, track)
    )
    """,
    "COMMENT ON TABLE beddit.blob_attempts IS 'How often a blob was asked for and when it will be again'",
    "COMMENT ON COLUMN beddit.blob_attempts.attempts IS 'For this version, in a row'",
    "COMMENT ON COLUMN beddit.blob_attempts.updated IS 'The session version whose blob was asked for'",
    # Inline on the page: a chunk is cut so that two of them fill one, and nothing tries to compress noise.
    """
    CREATE TABLE beddit.sample_chunks (
        session_id bigint NOT NULL,
        user_id bigint NOT NULL,
        track text NOT NULL,
        first_index bigint NOT NULL,
        bias bigint NOT NULL,
        int2s int2[],
        int4s int4[],
        float4s float4[],
        float8s float8[]
    ) WITH (toast_tuple_target = 8160)
    """,
    "CREATE INDEX sample_chunks_range ON beddit.sample_chunks (session_id, user_id, track, first_index)",
    "COMMENT ON COLUMN beddit.sample_chunks.bias IS 'Added to each element: unsigned types are stored shifted'",
    """
    CREATE VIEW beddit.sampled_tracks AS
    SELECT t.user_id, t.session_id, t.track, t.data_type, t.samples_per_frame, t.frame_length,
           t.samples_per_frame / nullif(t.frame_length, 0) AS sample_rate,
           t.sample_count,
           t.samples_per_frame * t.frame_count AS expected_count,
           CASE WHEN t.stored_status IS NOT NULL THEN t.stored_status
                WHEN NOT t.declared OR m.track IS NULL THEN coalesce(t.older_status, 'absent')
                WHEN a.status = 'unavailable' THEN 'unavailable'
                ELSE 'pending' END AS status,
           coalesce(a.reason, t.stored_reason) AS reason,
           coalesce(a.attempts, 0) AS attempts,
           a.next_attempt_at,
           encode(t.sha256, 'hex') AS sha256
    FROM (
        SELECT user_id, session_id, track, s.updated, s.frame_length, s.frame_count,
               d.track IS NOT NULL AS declared,
               coalesce(d.data_type, b.data_type) AS data_type,
               coalesce(d.samples_per_frame, b.samples_per_frame) AS samples_per_frame,
               b.sample_count, b.sha256, b.status AS older_status,
               CASE WHEN b.updated IS NOT DISTINCT FROM s.updated THEN b.status END AS stored_status,
               CASE WHEN b.updated IS NOT DISTINCT FROM s.updated THEN b.reason END AS stored_reason
        FROM beddit.track_declarations d
        FULL JOIN beddit.blob_records b USING (user_id, session_id, track)
        LEFT JOIN beddit.session_records s USING (user_id, session_id)
    ) t
    LEFT JOIN beddit.blob_mentions m ON (m.user_id, m.session_id, m.track) = (t.user_id, t.session_id, t.track)
        AND m.updated IS NOT DISTINCT FROM t.updated
    LEFT JOIN beddit.blob_attempts a ON (a.user_id, a.session_id, a.track) = (t.user_id, t.session_id, t.track)
        AND a.updated IS NOT DISTINCT FROM t.updated
    """,
    "COMMENT ON VIEW beddit.sampled_tracks IS 'One row per raw signal of a session, with the state of its blob'",
    """
    COMMENT ON COLUMN beddit.sampled_tracks.status IS
    'pending (not fetched yet), complete, mismatch (stored, its length does not fit the session), '
    'unavailable (refused or gone, tried again), absent (the session names no address), '
    'unsupported (an unknown sample type: length and hash are kept)'
    """,
    """
    COMMENT ON COLUMN beddit.sampled_tracks.sample_count IS
    'Samples that are stored; while a newer version is pending or unavailable, those of the older one'
    """,
    "COMMENT ON COLUMN beddit.sampled_tracks.sample_rate IS 'Samples per second'",
    # Subtracted, because -0.0 + 0 is 0.0 and -0.0 - 0 is -0.0.
    """
    CREATE VIEW beddit.samples AS
    SELECT c.user_id, c.session_id, c.track, c.first_index + item.ordinal - 1 AS index,
           sync.instant(s.start_timestamp
               + (c.first_index + item.ordinal - 1) * b.frame_length / b.samples_per_frame) AS time,
           item.value - (-c.bias) AS value
    FROM beddit.sample_chunks c
    JOIN beddit.blob_records b USING (user_id, session_id, track)
    JOIN beddit.session_records s USING (user_id, session_id)
    CROSS JOIN LATERAL unnest(
        coalesce(c.int2s::float8[], c.int4s::float8[], c.float4s::float8[], c.float8s))
        WITH ORDINALITY AS item (value, ordinal)
    """,
    """
    COMMENT ON VIEW beddit.samples IS
    'Every sample of every raw signal. It unpacks whole tracks: name user, session and track, and for a '
    'stretch of time use beddit.samples_between(user_id, session_id, track, from, to)'
    """,
    # The chunk bounds are widened by a whole chunk (at most 4,096 samples) and a sample on each side; the
    # exact bound is the one on time.
    """
    CREATE FUNCTION beddit.samples_between(
        of_user bigint, of_session bigint, of_track text, from_time timestamptz, to_time timestamptz)
    RETURNS TABLE (user_id bigint, session_id bigint, track text, index bigint, "time" timestamptz, value float8)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT v.user_id, v.session_id, v.track, v.index, v.time, v.value
    FROM (
        SELECT c.user_id, c.session_id, c.track, c.first_index + item.ordinal - 1 AS index,
               sync.instant(s.start_timestamp
                   + (c.first_index + item.ordinal - 1) * b.frame_length / b.samples_per_frame) AS time,
               item.value - (-c.bias) AS value
        FROM beddit.session_records s
        JOIN beddit.blob_records b USING (user_id, session_id)
        JOIN beddit.sample_chunks c ON c.user_id = of_user AND c.session_id = of_session AND c.track = of_track
            AND c.first_index >= least(greatest((extract(epoch FROM from_time)::float8 - s.start_timestamp)
                * b.samples_per_frame / b.frame_length, -1e15), 1e15)::bigint - 4097
            AND c.first_index <= greatest(least((extract(epoch FROM to_time)::float8 - s.start_timestamp)
                * b.samples_per_frame / b.frame_length, 1e15), -1e15)::bigint + 1
        CROSS JOIN LATERAL unnest(
            coalesce(c.int2s::float8[], c.int4s::float8[], c.float4s::float8[], c.float8s))
            WITH ORDINALITY AS item (value, ordinal)
        WHERE s.user_id = of_user AND s.session_id = of_session AND b.track = of_track
    ) v
    WHERE v.time >= from_time AND v.time < to_time
    $$
    """,
    """
    COMMENT ON FUNCTION beddit.samples_between IS
    'The samples of one raw signal with from <= time < to; reads only the chunks it needs'
    """,
)


def upgrade() -> None:
    op.execute("CREATE SCHEMA beddit")
    for statement in STATEMENTS:
        op.execute(statement)

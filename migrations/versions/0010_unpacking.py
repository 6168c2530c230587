"""Raw samples are unpacked without being kept in between (beddit.samples, beddit.samples_between).

* A function in FROM writes all of its rows down before the first one is read; one in a SELECT list hands them on.
* It stands in a subquery of its own, so that the view still is a plain join: its tables are found by the keys of
  whatever it is joined with.
* An element is taken out of its array there and not above, or else every sample that is sorted or grouped would
  drag its whole array along.
* Integers are shifted as integers: exact, as they are in float8, and -0.0, which has no bias, stays what it is.
"""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

COLUMNS = """
    c.user_id, c.session_id, c.track, c.first_index + item.ordinal AS index,
    sync.instant(s.start_timestamp
        + (c.first_index + item.ordinal) * b.frame_length / b.samples_per_frame) AS time,
    coalesce((item.int2 + c.bias)::float8, (item.int4 + c.bias)::float8, item.float4, item.float8) AS value
"""

ITEMS = """
    CROSS JOIN LATERAL (
        SELECT unnest(c.int2s) AS int2, unnest(c.int4s) AS int4,
               unnest(c.float4s) AS float4, unnest(c.float8s) AS float8,
               generate_series(0, coalesce(cardinality(c.int2s), cardinality(c.int4s),
                                           cardinality(c.float4s), cardinality(c.float8s)) - 1) AS ordinal
    ) AS item
"""

STATEMENTS = (
    f"""
    CREATE OR REPLACE VIEW beddit.samples AS
    SELECT {COLUMNS}
    FROM beddit.sample_chunks c
    JOIN beddit.blob_records b USING (user_id, session_id, track)
    JOIN beddit.session_records s USING (user_id, session_id)
    {ITEMS}
    """,
    # The chunk bounds are widened by a whole chunk (at most 4,096 samples) and a sample on each side; the
    # exact bound is the one on time.
    f"""
    CREATE OR REPLACE FUNCTION beddit.samples_between(
        of_user bigint, of_session bigint, of_track text, from_time timestamptz, to_time timestamptz)
    RETURNS TABLE (user_id bigint, session_id bigint, track text, index bigint, "time" timestamptz, value float8)
    LANGUAGE sql STABLE PARALLEL SAFE
    AS $$
    SELECT v.user_id, v.session_id, v.track, v.index, v.time, v.value
    FROM (
        SELECT {COLUMNS}
        FROM beddit.session_records s
        JOIN beddit.blob_records b USING (user_id, session_id)
        JOIN beddit.sample_chunks c ON c.user_id = of_user AND c.session_id = of_session AND c.track = of_track
            AND c.first_index >= least(greatest((extract(epoch FROM from_time)::float8 - s.start_timestamp)
                * b.samples_per_frame / b.frame_length, -1e15), 1e15)::bigint - 4097
            AND c.first_index <= greatest(least((extract(epoch FROM to_time)::float8 - s.start_timestamp)
                * b.samples_per_frame / b.frame_length, 1e15), -1e15)::bigint + 1
        {ITEMS}
        WHERE s.user_id = of_user AND s.session_id = of_session AND b.track = of_track
    ) v
    WHERE v.time >= from_time AND v.time < to_time
    $$
    """,
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)

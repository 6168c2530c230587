"""Datapoints by minute, hour and day, as people would otherwise add them up themselves; and an index on time.

* Rows come in the order of sessions, so that a page's rows are close in time: a few bytes a range of pages find
  a day of all sessions.
* Plain views, which TimescaleDB replaces by continuous aggregates where its licence allows (see
  sync/storage/features.py): the columns are the same.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

WIDTHS = {"minute": "1 minute", "hour": "1 hour", "day": "1 day"}


def upgrade() -> None:
    op.execute(
        "CREATE INDEX datapoint_rows_time ON bace.datapoint_rows USING brin (time timestamptz_minmax_multi_ops) "
        "WITH (pages_per_range = 32, autosummarize = on)"
    )
    for name, width in WIDTHS.items():
        view = f"bace.datapoints_by_{name}"
        op.execute(
            f"""
            CREATE VIEW {view} AS
            SELECT b.id_data_session, b.id_container_data_latest, d.id_group, d.source_device, d.datatype, b.time,
                   b.weighted_sum / b.weight AS value, b.min_value, b.max_value, b.count::bigint AS count
            FROM (
                SELECT id_data_session, id_container_data_latest,
                       date_bin('{width}', time, 'epoch') AS time,
                       sum(value * coalesce(count, 1)) AS weighted_sum,
                       sum(coalesce(count, 1)) FILTER (WHERE value IS NOT NULL) AS weight,
                       min(coalesce(min_value, value)) AS min_value, max(coalesce(max_value, value)) AS max_value,
                       sum(coalesce(count, 1)) AS count
                FROM bace.datapoint_rows GROUP BY 1, 2, 3
            ) b
            LEFT JOIN bace.dataset_records d USING (id_container_data_latest)
            """
        )
        op.execute(
            f"COMMENT ON VIEW {view} IS 'Datapoints of a dataset of a session, {name} by {name} in UTC'"
        )
        op.execute(f"COMMENT ON COLUMN {view}.time IS 'Where the {name} begins'")
        op.execute(
            f"COMMENT ON COLUMN {view}.value IS 'The average; each datapoint counts as often as it stands for'"
        )
        op.execute(f"COMMENT ON COLUMN {view}.count IS 'Datapoints'")

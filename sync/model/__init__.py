"""Frozen values that every room may know. No I/O, no logging, no clock."""

from sync.model.batch import (
    Batch,
    ColumnValues,
    Interval,
    Progress,
    Record,
    Reject,
    Rows,
    StreamKey,
    Stretch,
    Update,
)
from sync.model.intervals import gaps, length, union
from sync.model.run import RunOutcome, StreamState, Tally, Task, Traffic
from sync.model.survey import StreamSurvey, Survey
from sync.model.table import Head, PgType, Series, Table
from sync.model.text import PAYLOAD_LIMIT, json_text, kind, shortened, storable

__all__ = [
    "PAYLOAD_LIMIT",
    "Batch",
    "ColumnValues",
    "Head",
    "Interval",
    "PgType",
    "Progress",
    "Record",
    "Reject",
    "Rows",
    "RunOutcome",
    "Series",
    "StreamKey",
    "StreamState",
    "StreamSurvey",
    "Stretch",
    "Survey",
    "Table",
    "Tally",
    "Task",
    "Traffic",
    "Update",
    "gaps",
    "json_text",
    "kind",
    "length",
    "shortened",
    "storable",
    "union",
]

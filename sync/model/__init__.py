"""Frozen values that every room may know. No I/O, no logging, no clock."""

from sync.model.batch import (
    Batch,
    ColumnValues,
    Difference,
    Interval,
    Kind,
    Progress,
    Record,
    Reject,
    Rows,
    StreamKey,
    Stretch,
    Update,
    Verified,
)
from sync.model.intervals import difference, gaps, length, union
from sync.model.run import RunOutcome, StreamState, Tally, Task, Traffic
from sync.model.survey import StreamSurvey, Survey
from sync.model.table import Head, PgType, Series, Table
from sync.model.text import PAYLOAD_LIMIT, json_text, kind, shortened, storable
from sync.model.verification import VERIFICATION, Extent, Fault, Pass

__all__ = [
    "PAYLOAD_LIMIT",
    "VERIFICATION",
    "Batch",
    "ColumnValues",
    "Difference",
    "Extent",
    "Fault",
    "Head",
    "Interval",
    "Kind",
    "Pass",
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
    "Verified",
    "difference",
    "gaps",
    "json_text",
    "kind",
    "length",
    "shortened",
    "storable",
    "union",
]

"""Comparing what an account sees with the warehouse: the list of sessions, then their data.

::

    listing     the list beside the stored sessions, field by field
    screening   buckets of days over many sessions at once: which of them have to be looked at
    narrowing   one session, from days to the rows that differ
    comparing   what a session's differences are, and mending them
    planning    which of these, in which order
"""

from sync.sources.bace.verification.planning import Verification

__all__ = ["Verification"]

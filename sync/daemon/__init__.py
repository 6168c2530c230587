"""``nightshift run``: what makes the work go on by itself.

::

    Timetable ──ticks──► Dispatcher ──claims──► leases
    (APScheduler)             │
                              └──accounts──► Engine ──► warehouse

    keeper: heartbeats, takes over from others          pages: /healthz /readyz /metrics

``Service`` joins them: one task group, in which the end of any part is the end of all.
"""

from sync.daemon.service import Service

__all__ = ["Service"]

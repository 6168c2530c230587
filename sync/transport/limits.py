"""How gently one host is treated, and how long it is waited for."""

from __future__ import annotations

from dataclasses import dataclass, fields

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings of the requests to one host. Every number is above zero; back-offs may be zero.

    Attributes:
        connect_timeout_s: Seconds to find the host, connect and finish the TLS handshake.
        read_timeout_s: Seconds of silence, before the answer begins or between two of its bytes. A little
            more than the minute after which Beddit's server is known to give up by itself.
        total_timeout_s: Seconds for one whole attempt, the reading of its answer included. It ends an
            answer that drips: one that is slow, but never silent.
        concurrency: Requests in flight at once to this host, of all accounts of the process.
        requests_per_second: Requests a second to this host, of all accounts of the process.
        burst: Requests that may leave at once after a quiet while, before that pace begins.
        attempts: How often one request is sent before its error is raised.
        backoff_initial_s: Seconds before the second attempt, doubled for each further one; as many again,
            times chance, are added.
        backoff_max_s: Seconds that a back-off never exceeds.
        retry_after_cap_s: Seconds that a vendor's own wish for a pause never exceeds.
        max_body_bytes: Bytes that one answer may have after decompression.
    """

    connect_timeout_s: float = 10.0
    read_timeout_s: float = 90.0
    total_timeout_s: float = 1800.0
    concurrency: int = 4
    requests_per_second: float = 10.0
    burst: int = 5
    attempts: int = 5
    backoff_initial_s: float = 1.0
    backoff_max_s: float = 60.0
    retry_after_cap_s: float = 300.0
    max_body_bytes: int = 512 * MIB

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if value < 0 or (value == 0 and not field.name.startswith("backoff")):
                raise ValueError(f"{field.name} is {value}, and must be above zero")

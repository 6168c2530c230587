"""The only room that talks HTTP: one request method, with limits, retries and an address policy.

A client for an account, one for its blobs, and the registry that all clients of a process share::

    gates = HostGates()
    token = FixedToken("UserToken", "...")
    client = HttpClient(base_url="https://cloud.example", credentials=token, gates=gates)
    blobs = HttpClient(base_url=None, policy=AddressPolicy(allow_private=False), gates=gates)

    async with client.open(Request("/api/v1/things", params={"limit": "10"})) as response:
        async for chunk in response.chunks():
            ...
"""

from sync.transport.client import HttpClient
from sync.transport.clock import Clock
from sync.transport.credentials import Credentials, FixedToken
from sync.transport.gates import HostGates
from sync.transport.limits import Limits
from sync.transport.meter import UNMETERED, Meter
from sync.transport.policy import AddressPolicy
from sync.transport.request import Request
from sync.transport.response import Response
from sync.transport.status import TokenRejected

__all__ = [
    "UNMETERED",
    "AddressPolicy",
    "Clock",
    "Credentials",
    "FixedToken",
    "HostGates",
    "HttpClient",
    "Limits",
    "Meter",
    "Request",
    "Response",
    "TokenRejected",
]

"""The BACE cloud, emulated: a synthetic fleet or sessions of a test, served as the vendor's documents say.

::

    async with BaceCloud(Fleet(sessions=30)) as cloud:
        token = cloud.token()
        ...  # GET {cloud.base_url}/api/v2/data-session?sort=-start
"""

from sync.emulators.answers import Request
from sync.emulators.bace.accounts import Account
from sync.emulators.bace.behaviour import Behaviour, Excess, OddValues, Refresh, Sorting
from sync.emulators.bace.cloud import BaceCloud
from sync.emulators.bace.fleet import Fleet, Kind
from sync.emulators.bace.samples import Dataset, Point, Samples, identifier
from sync.emulators.bace.sessions import DataSession
from sync.emulators.faults import HTML_PAGE, MALFORMED_JSON, Disorder, Fault, FaultPlan

__all__ = [
    "HTML_PAGE",
    "MALFORMED_JSON",
    "Account",
    "BaceCloud",
    "Behaviour",
    "DataSession",
    "Dataset",
    "Disorder",
    "Excess",
    "Fault",
    "FaultPlan",
    "Fleet",
    "Kind",
    "OddValues",
    "Point",
    "Refresh",
    "Request",
    "Samples",
    "Sorting",
    "identifier",
]

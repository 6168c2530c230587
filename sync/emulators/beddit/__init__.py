"""The Beddit cloud, emulated: a synthetic study or saved sessions, served as the vendor's documents say.

::

    async with BedditCloud(Study(nights=3, hours=0.5)) as cloud:
        token = cloud.token(1001)
        ...  # GET {cloud.base_url}/api/v1/user/1001/session?updated_after=0
"""

from sync.emulators import answers
from sync.emulators.answers import Request
from sync.emulators.beddit.archive import Archive, FileNote, SavedSession, read_archive
from sync.emulators.beddit.behaviour import Behaviour, BlobForm, Host, Limit, Order, Overload, RangeBy
from sync.emulators.beddit.cloud import BedditCloud
from sync.emulators.beddit.record import Record
from sync.emulators.beddit.study import Night, Study
from sync.emulators.faults import HTML_PAGE, MALFORMED_JSON, Disorder, Fault, FaultPlan

__all__ = [
    "HTML_PAGE",
    "MALFORMED_JSON",
    "Archive",
    "BedditCloud",
    "Behaviour",
    "BlobForm",
    "Disorder",
    "Fault",
    "FaultPlan",
    "FileNote",
    "Host",
    "Limit",
    "Night",
    "Order",
    "Overload",
    "RangeBy",
    "Record",
    "Request",
    "SavedSession",
    "Study",
    "answers",
    "read_archive",
]

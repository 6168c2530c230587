"""The records of the API: data sessions, groups, physical devices, persons and users."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from sync.emulators.bace.behaviour import Behaviour
from sync.emulators.bace.holdings import Holdings
from sync.emulators.bace.query import Kind
from sync.emulators.bace.samples import identifier
from sync.emulators.bace.sessions import DataSession
from sync.emulators.bace.yii import Record

SESSION_KINDS: Final = {
    "id_data_session": Kind.TEXT,
    "id_group": Kind.TEXT,
    "id_person": Kind.TEXT,
    "label": Kind.TEXT,
    "start": Kind.INTEGER,
    "end": Kind.INTEGER,
    "created_at": Kind.INTEGER,
    "created_by": Kind.TEXT,
    "updated_at": Kind.INTEGER,
    "updated_by": Kind.TEXT,
    "archived_at": Kind.INTEGER,
    "datapoint_count": Kind.INTEGER,
    "isIngestionFinished": Kind.BOOLEAN,
    "isArchived": Kind.BOOLEAN,
}
GROUP_KINDS: Final = {
    "id": Kind.TEXT,
    "id_group": Kind.TEXT,
    "label": Kind.TEXT,
    "type": Kind.TEXT,
    "type_label": Kind.TEXT,
    "subtype": Kind.TEXT,
    "id_country": Kind.TEXT,
    "created_at": Kind.INTEGER,
}
DEVICE_KINDS: Final = {
    "id_physical_device": Kind.TEXT,
    "serial_hardware": Kind.TEXT,
    "label": Kind.TEXT,
    "id_parent": Kind.TEXT,
    "id_group": Kind.TEXT,
    "id_device_type": Kind.TEXT,
    "id_iot_device": Kind.TEXT,
    "is_connected": Kind.INTEGER,
    "created_at": Kind.INTEGER,
    "last_data_at": Kind.INTEGER,
}
SESSION_EXPAND: Final = (
    "datatypes",
    "datatypesFilter",
    "creator",
    "updater",
    "physicalDevicesFilter",
    "physicalDevices",
    "fromDevice",
    "group",
    "dataIds",
)
SESSION_LABELS: Final = {
    "group.label": "Group",
    "person.label": "Person",
    "person.objectLink": "Person",
    "sourceDevicesString": "Source Devices",
    "datatypesString": "Datatypes",
    "ingestionStatusString": "Ingestion",
    "archivingStatusString": "Archived",
}
DEVICE_EXPAND: Final = (
    "latestEvent",
    "group",
    "parent",
    "deviceType",
    "location",
    "iotDevice",
    "deviceInfo",
    "modbusTemplateHistory",
    "currentModbusTemplate",
    "simCard",
)
GROUP_EXPAND: Final = ("latestSession",)

_COUNTRY: Final = identifier("country", "nl")
_INSTALLED: Final = 1_617_022_239
"""When the documents' device was created."""


class Resources:
    """Records as they are at one instant.

    Args:
        holdings: What the service holds.
        may_see: Whether the account may see a session.
        behaviour: How the service is.
        now: Unix seconds on the service's clock.
        base: The address that links begin with.
    """

    def __init__(
        self,
        holdings: Holdings,
        may_see: Callable[[DataSession], bool],
        behaviour: Behaviour,
        now: float,
        base: str,
    ) -> None:
        self._holdings = holdings
        self._may_see = may_see
        self._behaviour = behaviour
        self._now = now
        self._base = base

    # --- data sessions ----------------------------------------------------------------------------

    def sessions(self) -> list[DataSession]:
        """The sessions that the account sees, in the service's own order."""
        return [session for session in self._holdings if session.exists(self._now) and self._may_see(session)]

    def session(self, session_id: str) -> DataSession | None:
        """A session, if the account sees it."""
        found = self._holdings.get(session_id)
        return found if found and found.exists(self._now) and self._may_see(found) else None

    def value(self, session: DataSession, name: str) -> Any:
        """An attribute of a session."""
        return _SESSION[name](session, self._now) if name in _SESSION else self._count(session)

    def session_record(self, session: DataSession) -> Record:
        """A session's record."""
        return Record(
            fields={name: self.value(session, name) for name in SESSION_KINDS},
            links=partial(self._links, "data-session", session.id),
            relations=self._relations(session),
        )

    def _count(self, session: DataSession) -> int:
        count = self._holdings.count(session, self._now, frozen=self._behaviour.count_frozen)
        return max(0, count + self._behaviour.count_error)

    def _relations(self, session: DataSession) -> Mapping[str, Callable[[], Any]]:
        relations: dict[str, Callable[[], Any]] = {
            "datatypes": lambda: sorted({dataset.datatype for dataset in session.datasets}),
            "datatypesFilter": lambda: [
                {"id": datatype, "label": f"Datatype {datatype}"}
                for datatype in sorted({dataset.datatype for dataset in session.datasets})
            ],
            "creator": lambda: _user(session.created_by),
            "updater": lambda: _user(session.updated_by),
            "physicalDevicesFilter": lambda: [
                {"id": device, "label": _device_label(device)} for device in _devices(session)
            ],
            "physicalDevices": lambda: [
                self.device_record(device, group) for device, group in _devices(session).items()
            ],
            "fromDevice": lambda: (
                None if session.device is None else self.device_record(session.device, session.group)
            ),
            "group": lambda: self.group_record(session.group),
            "dataIds": lambda: self._data_ids(session),
        }
        if self._behaviour.expand_person:
            relations["person"] = lambda: None if session.person is None else _person(session.person)
        return relations

    def _data_ids(self, session: DataSession) -> list[Any]:
        datasets = sorted(session.datasets)
        if not self._behaviour.data_id_objects:
            return [dataset.id_container_data_latest for dataset in datasets]
        return [
            {
                "id_container_data_latest": dataset.id_container_data_latest,
                "id_group": dataset.id_group,
                "source_device": dataset.source_device,
                "datatype": dataset.datatype,
            }
            for dataset in datasets
        ]

    # --- groups and devices -----------------------------------------------------------------------

    def groups(self) -> dict[str, Record]:
        """The groups that the account sees, by id."""
        return {group: self.group_record(group) for group in sorted({s.group for s in self.sessions()})}

    def devices(self) -> dict[str, Record]:
        """The devices that the account sees, by id."""
        found: dict[str, str] = {}
        for session in self.sessions():
            found |= _devices(session)
        return {device: self.device_record(device, found[device]) for device in sorted(found)}

    def group_record(self, group: str) -> Record:
        """A group's record."""
        below = "/api/v2"
        links = {
            "self": f"{below}/group/{group}",
            "index": f"{below}/group/index",
            "data": f"{below}/data?filter[id_group]={group}",
            "downsampled_data": f"{below}/data-downsampled?filter[id_group]={group}",
            "raw_data": f"{below}/data/index?filter[id_group]={group}",
        }
        return Record(
            fields={
                "id": group,
                "id_group": group,
                "label": f"Group {group[:4].upper()}",
                "type": "5003",
                "type_label": "Loose Device",
                "subtype": "BACE Go",
                "id_country": _COUNTRY,
                "created_at": _INSTALLED + int(group[:4], 16),
            },
            links=lambda restricted: [] if restricted else {n: {"href": href} for n, href in links.items()},
            relations={"latestSession": lambda: self._latest(group)},
        )

    def device_record(self, device: str, group: str) -> Record:
        """A device's record."""
        relations: dict[str, Callable[[], Any]] = dict.fromkeys(DEVICE_EXPAND, lambda: None)
        return Record(
            fields={
                "id_physical_device": device,
                "serial_hardware": device.replace("-", "")[:12],
                "label": _device_label(device),
                "id_parent": None,
                "id_group": group,
                "id_device_type": "bace-go",
                "id_iot_device": None,
                "is_connected": 0,
                "expected_offline_interval": None,
                "expected_live_status": None,
                "device_status": None,
                "connection": "cellular",
                "created_at": _INSTALLED + int(device[:4], 16),
                "last_data_at": None,
                "signal": 0,
                "commissioned_at": None,
                "calibrated_at": 0,
                "reconnected_at": None,
                "bace_software_version": None,
                "app_software_version": None,
                "archived_serial": None,
                "archived_at": None,
                "archived_by": None,
            },
            links=partial(self._links, "physical-device", device),
            relations=relations | {"group": lambda: self.group_record(group)},
        )

    def _latest(self, group: str) -> Record | None:
        started = [session for session in self.sessions() if session.group == group]
        return self.session_record(max(started, key=lambda s: s.start)) if started else None

    def _links(self, resource: str, record_id: str, restricted: bool) -> dict[str, Any]:
        """A record's links; those of a restricted nested one lack the scheme (BACE docs, Fields)."""
        base = self._base.split("://", 1)[-1] if restricted else self._base
        return {
            "self": {"href": f"{base}/api/v2/{resource}/view?id={record_id}"},
            "index": {"href": f"{base}/api/v2/{resource}/index"},
        }


_SESSION: Final[dict[str, Callable[[DataSession, float], Any]]] = {
    "id_data_session": lambda session, _: session.id,
    "id_group": lambda session, _: session.group,
    "id_person": lambda session, _: session.person,
    "label": lambda session, _: session.label,
    "start": lambda session, _: session.start,
    "end": lambda session, now: session.end_at(now),
    "created_at": lambda session, _: session.created_at,
    "created_by": lambda session, _: session.created_by,
    "updated_at": lambda session, now: session.updated_at(now),
    "updated_by": lambda session, _: session.updated_by,
    "archived_at": lambda session, now: session.archived_by(now),
    "isIngestionFinished": lambda session, now: session.is_ingested(now),
    "isArchived": lambda session, now: session.archived_by(now) is not None,
}


def _devices(session: DataSession) -> dict[str, str]:
    """The devices of a session and their groups."""
    return {dataset.source_device: dataset.id_group for dataset in session.datasets}


def _device_label(device: str) -> str:
    return f"BACE Go {device[:4].upper()}"


def _person(person: str) -> Record:
    fields = {"id_person": person, "label": f"Person {person[:4].upper()}"}
    return Record(fields=fields, links=lambda _: [])


def _user(user: str | None) -> Record | None:
    if user is None:
        return None
    return Record(fields={"id_user": user, "label": f"User {user[:4].upper()}"}, links=lambda _: [])

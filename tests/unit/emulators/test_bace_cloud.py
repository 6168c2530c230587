"""The emulated cloud keeps every documented rule, and breaks each one exactly when it is told to."""

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
import pytest

from sync.emulators.bace import (
    HTML_PAGE,
    MALFORMED_JSON,
    Account,
    BaceCloud,
    Behaviour,
    DataSession,
    Dataset,
    Fault,
    Fleet,
    Refresh,
    Samples,
    Sorting,
    identifier,
)

START = 1_648_641_893
GROUP = identifier("a group")
OTHER_GROUP = identifier("another group")
DEVICE = identifier("a device")
BATTERY = Dataset.of(GROUP, DEVICE, 5205)
PULSE = Dataset.of(GROUP, DEVICE, 6000)
CREDENTIALS = {
    "client_id": "lab-client",
    "client_secret": "lab-client-secret",
    "username": "lab@example.org",
    "password": "lab-password",
}
PASSWORD = {**CREDENTIALS, "grant_type": "password"}


class Clock:
    """A clock that a test moves."""

    def __init__(self):
        self.now = START + 864_000.0

    def __call__(self):
        """Tell the time."""
        return self.now


class Visitor:
    """A plain HTTP client that knows a cloud and a token."""

    def __init__(self, http, cloud):
        self.http, self.cloud = http, cloud

    async def ask(self, path, *, method="GET", token=None, headers=None, **more):
        """Ask for a path below the host; the status, the body and the headers come back."""
        if headers is None:
            headers = {"Authorization": f"Bearer {token or self.cloud.token()}"}
        url = self.cloud.base_url + path
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **more) as response:
            return response.status, await response.read(), response.headers

    async def get(self, path, **more):
        """The decoded body of a successful answer of the API."""
        status, body, _ = await self.ask(f"/api/v2/{path}", **more)
        assert status == 200, body
        return json.loads(body)

    async def labels(self, query):
        """The labels of the data sessions that a query gives, in its order."""
        return [item["label"] for item in (await self.get(f"data-session?{query}"))["items"]]

    async def refused(self, path, **more):
        """The status and the decoded body of an answer."""
        status, body, _ = await self.ask(f"/api/v2/{path}", **more)
        return status, json.loads(body)

    async def grant(self, **form):
        """The answer of the token endpoint."""
        async with self.http.post(f"{self.cloud.base_url}/oauth2/token", data=form) as response:
            return response.status, await response.json()


def documented(**more):
    """The session of the documents' example: ten samples in 1174 s."""
    points = [(BATTERY, START + 46.995 + 100 * i, 3.95 - i / 100) for i in range(10)]
    return DataSession.of(
        points, start=START, end=1_648_643_067, label="BACE Go XXX 2022-03-30 14:04", **more
    )


def named(*labels, group=GROUP):
    """Sessions with these labels, an hour apart."""
    return [
        DataSession.of([(BATTERY, START + 3600.5 * i, 1)], start=START + 3600 * i, label=label, group=group)
        for i, label in enumerate(labels)
    ]


@pytest.fixture
def clock():
    """A clock that stands still."""
    return Clock()


@pytest.fixture
async def cloud(clock):
    """A running cloud with the session of the documents."""
    async with BaceCloud([documented()], clock=clock) as running:
        yield running


@pytest.fixture
async def visitor(cloud):
    """A client of that cloud."""
    async with aiohttp.ClientSession() as http:
        yield Visitor(http, cloud)


@pytest.fixture
def only(cloud):
    """Let the cloud hold some sessions and no others."""

    def hold(*sessions):
        for session in cloud.sessions():
            cloud.remove(session.id)
        for session in sessions:
            cloud.put(session)

    return hold


# --- tokens ---------------------------------------------------------------------------------------


async def test_a_password_opens_the_api_for_a_day(visitor, clock):
    """The password grant answers the five documented fields in order; the token works for 86,400 s."""
    status, body = await visitor.grant(**PASSWORD, redirect_uri="ignored")
    assert status == 200
    assert list(body) == ["access_token", "expires_in", "token_type", "scope", "refresh_token"]
    assert (body["expires_in"], body["token_type"], body["scope"]) == (86400, "Bearer", None)
    clock.now += 86_399
    assert (await visitor.ask("/api/v2/data-session", token=body["access_token"]))[0] == 200
    clock.now += 1
    assert (await visitor.ask("/api/v2/data-session", token=body["access_token"]))[0] == 401


async def test_tokens_come_for_multipart_forms_and_through_a_double_slash(visitor, cloud):
    """The token endpoint takes both kinds of form and tolerates repeated slashes."""
    with aiohttp.MultipartWriter("form-data") as form:
        for name, value in PASSWORD.items():
            part = form.append(value)
            part.set_content_disposition("form-data", name=name)
    status, body, _ = await visitor.ask("//oauth2/token", method="POST", data=form, headers={})
    assert status == 200, body
    assert len(cloud.grants("password")) == 1
    assert (await visitor.ask("//api//v2/data-session"))[0] == 200


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"password": "wrong"}, 401, "Invalid username and password combination"),
        ({"username": "nobody"}, 401, "Invalid username and password combination"),
        ({"username": ""}, 400, 'Missing parameters: "username" and "password" required'),
        ({"client_secret": "wrong"}, 400, "The client credentials are invalid"),
        ({"client_id": ""}, 400, "Client credentials were not found in the headers or body"),
        ({"grant_type": ""}, 400, "The grant type was not specified in the request"),
        ({"grant_type": "magic"}, 400, 'Grant type "magic" not supported'),
    ],
)
async def test_a_bad_request_for_a_token_is_refused_in_either_shape(visitor, cloud, change, status, message):
    """Errors of the token endpoint are Yii2's, or OAuth's own where the switch says so."""
    found, body = await visitor.grant(**PASSWORD | change)
    assert found == status
    assert list(body) == ["name", "message", "code", "status", "type"]
    assert (body["message"], body["status"], body["code"]) == (message, status, 0)
    cloud.behaviour = Behaviour(oauth_errors=True)
    found, body = await visitor.grant(**PASSWORD | change)
    assert found == status
    assert list(body) == ["error", "error_description"]
    assert body["error_description"] == message


async def test_only_post_gets_a_token(visitor):
    """Another method at the token endpoint is a 405 that names the right one."""
    status, body, headers = await visitor.ask("/oauth2/token")
    assert (status, headers["Allow"]) == (405, "POST")
    assert json.loads(body)["type"] == "yii\\web\\MethodNotAllowedHttpException"


def refreshing(token):
    """The form of a refresh."""
    return {**CREDENTIALS, "grant_type": "refresh_token", "refresh_token": token}


@pytest.mark.parametrize(
    ("refresh", "names_one", "old_again"),
    [
        (Refresh.ROTATED, True, 400),
        (Refresh.SAME, True, 200),
        (Refresh.KEPT, False, 200),
        (Refresh.SPENT, False, 400),
    ],
)
async def test_a_refresh_token_is_spent_or_not(visitor, cloud, refresh, names_one, old_again):
    """Refresh tokens are single-use by default; each other way is a switch."""
    cloud.behaviour = Behaviour(refresh=refresh)
    _, first = await visitor.grant(**PASSWORD)
    status, second = await visitor.grant(**refreshing(first["refresh_token"]))
    assert status == 200
    assert ("refresh_token" in second) is names_one
    assert second["access_token"] != first["access_token"]
    assert (second.get("refresh_token") == first["refresh_token"]) is (refresh is Refresh.SAME)
    status, again = await visitor.grant(**refreshing(first["refresh_token"]))
    assert status == old_again
    if old_again == 400:
        assert again["message"] == "Invalid refresh token"
    assert len(cloud.grants("refresh_token")) == 2
    assert len(cloud.grants()) == 3


async def test_a_refresh_token_lives_for_a_fortnight(visitor, clock, cloud):
    """After 14 days a refresh token has expired; an unsupported grant is refused from the start."""
    _, first = await visitor.grant(**PASSWORD)
    clock.now += 14 * 86_400
    status, body = await visitor.grant(**refreshing(first["refresh_token"]))
    assert (status, body["message"]) == (400, "Refresh token has expired")
    cloud.behaviour = Behaviour(refresh=Refresh.REFUSED)
    status, body = await visitor.grant(**refreshing(first["refresh_token"]))
    assert (status, body["message"]) == (400, 'Grant type "refresh_token" not supported')


async def test_revoked_tokens_open_nothing(visitor, cloud):
    """Tokens can be revoked at once, of either kind."""
    _, tokens = await visitor.grant(**PASSWORD)
    cloud.revoke_tokens(refresh=False)
    assert (await visitor.ask("/api/v2/data-session", token=tokens["access_token"]))[0] == 401
    assert (await visitor.grant(**refreshing(tokens["refresh_token"])))[0] == 200
    cloud.revoke_tokens()
    assert (await visitor.grant(**refreshing(tokens["refresh_token"])))[0] == 400


@pytest.mark.parametrize("authorization", ["", "Bearer wrong", "Basic abc", "Bearer"])
async def test_a_missing_or_wrong_token_is_a_401(visitor, authorization):
    """The documented body and a challenge answer requests without a valid token."""
    headers = {"Authorization": authorization} if authorization else {}
    status, body, answered = await visitor.ask("/api/v2/data-session", headers=headers)
    assert status == 401
    assert json.loads(body) == {
        "name": "Unauthorized",
        "message": "Your request was made with invalid credentials.",
        "code": 0,
        "status": 401,
        "type": "yii\\web\\UnauthorizedHttpException",
    }
    assert answered["WWW-Authenticate"] == 'Bearer realm="api"'


async def test_a_missing_permission_is_a_401_too(visitor, cloud):
    """An endpoint that an account may not use answers 401, with a text of its own or with the same."""
    cloud.behaviour = Behaviour(forbidden=frozenset({"group"}), permission_text=None)
    status, body = await visitor.refused("group")
    assert (status, body["message"]) == (401, "Your request was made with invalid credentials.")
    poor = cloud.add_account(
        Account(username="poor", password="p", forbidden=frozenset({"data-downsampled"}))
    )
    cloud.behaviour = Behaviour()
    status, body = await visitor.refused("data-downsampled", token=cloud.token(poor))
    assert (status, body["message"]) == (401, "You are not allowed to perform this action.")
    assert (await visitor.ask("/api/v2/data-downsampled"))[0] == 200


async def test_an_account_sees_the_sessions_of_its_groups(visitor, cloud, only):
    """Counts, lists and single records cover what the account may see."""
    theirs, hidden = named("theirs", group=OTHER_GROUP)[0], named("hidden")[0]
    only(theirs, hidden)
    guest = cloud.add_account(Account(username="guest", password="g"), groups=[OTHER_GROUP])
    token = cloud.token(guest)
    answer = await visitor.get("data-session", token=token)
    assert [item["label"] for item in answer["items"]] == ["theirs"]
    assert answer["_meta"]["totalCount"] == 1
    assert (await visitor.refused(f"data-session/{hidden.id}", token=token))[0] == 404
    assert (await visitor.get("data-session"))["_meta"]["totalCount"] == 2
    rows = await visitor.get(f"data-downsampled?filter[id_data_session]={hidden.id}", token=token)
    assert rows["items"] == []
    assert [item["id_group"] for item in (await visitor.get("group", token=token))["items"]] == [OTHER_GROUP]


# --- envelope and pages ---------------------------------------------------------------------------


async def test_the_list_of_sessions_looks_like_the_documents_example(visitor, cloud):
    """Fields, order, values and envelope are those of the documents' example."""
    answer = await visitor.get("data-session?sort=-start")
    base = f"{cloud.base_url}/api/v2/data-session"
    session = documented()
    assert list(answer) == ["items", "_links", "_meta", "expand", "labels"]
    assert [list(answer["items"][0].items())] == [
        [
            ("id_data_session", session.id),
            ("id_group", GROUP),
            ("id_person", None),
            ("label", "BACE Go XXX 2022-03-30 14:04"),
            ("start", 1648641893),
            ("end", 1648643067),
            ("created_at", 1648641897),
            ("created_by", None),
            ("updated_at", 1648643384),
            ("updated_by", None),
            ("archived_at", None),
            ("datapoint_count", 10),
            ("isIngestionFinished", True),
            ("isArchived", False),
            (
                "_links",
                {"self": {"href": f"{base}/view?id={session.id}"}, "index": {"href": f"{base}/index"}},
            ),
        ]
    ]
    assert answer["_meta"] == {"totalCount": 1, "pageCount": 1, "currentPage": 1, "perPage": 20}
    assert answer["_links"] == {
        name: {"href": f"{base}?sort=-start&page=1"} for name in ("self", "first", "last")
    }
    assert answer["expand"] == [
        "datatypes",
        "datatypesFilter",
        "creator",
        "updater",
        "physicalDevicesFilter",
        "physicalDevices",
        "fromDevice",
        "group",
        "dataIds",
    ]
    assert answer["labels"]["person.objectLink"] == "Person"


async def test_an_account_as_big_as_the_documents_has_274_pages(clock):
    """5,474 sessions are 274 pages of 20, and listing one computes no samples."""
    clock.now = 1_900_000_000.0
    async with (
        BaceCloud(Fleet(sessions=5474), clock=clock) as cloud,
        aiohttp.ClientSession() as http,
    ):
        visitor = Visitor(http, cloud)
        base = f"{cloud.base_url}/api/v2/data-session?sort=-start&page="
        status, body, headers = await visitor.ask("/api/v2/data-session?sort=-start")
        answer = json.loads(body)
        assert status == 200
        assert answer["_meta"] == {"totalCount": 5474, "pageCount": 274, "currentPage": 1, "perPage": 20}
        assert answer["_links"] == {
            "self": {"href": base + "1"},
            "first": {"href": base + "1"},
            "last": {"href": base + "274"},
            "next": {"href": base + "2"},
        }
        starts = [item["start"] for item in answer["items"]]
        assert starts == sorted(starts, reverse=True)
        assert headers["x-pagination-total-count"] == "5474"
        assert headers["x-pagination-page-count"] == "274"
        assert headers["x-pagination-current-page"] == "1"
        assert headers["x-pagination-per-page"] == "20"
        assert f"<{base}2>; rel=next" in headers["Link"]
        assert not cloud._holdings._tables
        last = await visitor.get("data-session?sort=-start&page=274")
        assert len(last["items"]) == 5474 - 273 * 20
        assert "next" not in last["_links"]
        assert last["_links"]["prev"] == {"href": base + "273"}


@pytest.mark.parametrize(
    ("query", "number", "size"),
    [
        ("page=99", 3, 20),
        ("page=0", 1, 20),
        ("page=-3", 1, 20),
        ("page=abc", 1, 20),
        ("page=2nd", 2, 20),
        ("per-page=7&page=2", 2, 7),
        ("per-page=1000", 1, 50),
        ("per-page=0", 1, 1),
        ("per-page=-5", 1, 1),
    ],
)
async def test_pages_are_clamped_without_a_word(visitor, only, query, number, size):
    """A page beyond the end is the last page again, and sizes stay within the range of the endpoint."""
    only(*named(*(f"s{i}" for i in range(55))))
    meta = (await visitor.get(f"data-session?{query}"))["_meta"]
    assert (meta["currentPage"], meta["perPage"], meta["totalCount"]) == (number, size, 55)
    assert meta["pageCount"] == -(-55 // size)


async def test_an_empty_collection_is_yii_s(visitor, only):
    """Without records there is one empty page and no link but its own."""
    only()
    answer = await visitor.get("data-session")
    assert answer["items"] == []
    assert answer["_meta"] == {"totalCount": 0, "pageCount": 0, "currentPage": 1, "perPage": 20}
    assert list(answer["_links"]) == ["self"]


async def test_links_keep_the_query_and_can_point_elsewhere(visitor, cloud):
    """Links are absolute, percent-encoded, name per-page only where it is not the default."""
    answer = await visitor.get("data-session/index?filter[label][like]=Go XXX&per-page=5")
    query = "filter%5Blabel%5D%5Blike%5D=Go+XXX&per-page=5&page=1"
    assert answer["_links"]["self"]["href"] == f"{cloud.base_url}/api/v2/data-session?{query}"
    cloud.behaviour = Behaviour(links_base="https://dashboard.bace-iot.com")
    answer = await visitor.get("data-session?per-page=20")
    assert answer["_links"]["self"]["href"] == "https://dashboard.bace-iot.com/api/v2/data-session?page=1"


async def test_per_page_and_totals_can_be_unreliable(visitor, cloud, only):
    """Switches let the service ignore per-page and miscount."""
    only(*named(*(f"s{i}" for i in range(30))))
    cloud.behaviour = Behaviour(per_page_ignored=True, total_error=-5)
    answer = await visitor.get("data-session?per-page=10")
    assert len(answer["items"]) == 20
    assert answer["_meta"] == {"totalCount": 25, "pageCount": 2, "currentPage": 1, "perPage": 20}


@pytest.mark.parametrize("path", ["group", "data-session", "physical-device", "data-downsampled"])
async def test_head_tells_the_counts_and_nothing_else(visitor, path):
    """HEAD gives the headers of GET with an empty body."""
    _, whole, expected = await visitor.ask(f"/api/v2/{path}")
    status, body, headers = await visitor.ask(f"/api/v2/{path}", method="HEAD")
    assert (status, body) == (200, b"")
    assert whole
    assert dict(headers) == dict(expected)


@pytest.mark.parametrize("path", ["group", "data-session", "data-downsampled"])
async def test_both_forms_of_a_collection_s_address_give_the_same(visitor, path):
    """``/<resource>`` and ``/<resource>/index`` are the same list."""
    assert await visitor.get(path) == await visitor.get(f"{path}/index")


# --- single records -------------------------------------------------------------------------------


async def test_a_record_has_two_addresses(visitor):
    """``/<uuid>`` and ``/view?id=<uuid>`` give the record of the list."""
    session = documented()
    listed = (await visitor.get("data-session"))["items"][0]
    assert await visitor.get(f"data-session/{session.id}") == listed
    assert await visitor.get(f"data-session/view?id={session.id}") == listed


async def test_what_does_not_exist_is_a_404_with_a_body(visitor, cloud):
    """Unknown routes and records answer Yii2's error body; the exception's name is a debugging aid."""
    for path in (
        "nothing",
        "data-session/a/b",
        "data-downsampled/a",
        "user/other",
        "group/a",
        "data-session/a",
    ):
        status, body = await visitor.refused(path)
        assert (status, body["name"], body["type"]) == (404, "Not Found", "yii\\web\\NotFoundHttpException")
    cloud.behaviour = Behaviour(error_type=False)
    assert "type" not in (await visitor.refused("nothing"))[1]
    assert (await visitor.ask("/elsewhere"))[0] == 404


async def test_a_removed_session_leaves_no_trace(visitor, cloud):
    """There are no tombstones: view answers 404, lists and data are empty."""
    session = documented()
    cloud.remove(session.id)
    assert (await visitor.refused(f"data-session/{session.id}"))[0] == 404
    assert (await visitor.get("data-session"))["items"] == []
    assert (await visitor.get(f"data-downsampled?filter[id_data_session]={session.id}"))["items"] == []


async def test_only_reading_is_possible(visitor):
    """Another method is a 405 that names the right ones."""
    status, _, headers = await visitor.ask("/api/v2/data-session", method="DELETE")
    assert (status, headers["Allow"]) == (405, "GET, HEAD")


async def test_everybody_knows_himself(visitor, cloud):
    """``/user/self`` names the account's user."""
    assert await visitor.get("user/self") == {"user": {"id_user": cloud.account().id_user}}


# --- fields and expand ----------------------------------------------------------------------------


async def test_fields_and_nested_expand_follow_the_documents_example(visitor, cloud):
    """Restricted groups have ``_links: []``, restricted devices links without a scheme; expanded stays."""
    session = documented()
    names = "fields=label,group.label,physicalDevices.label,physicalDevices.group.label"
    expand = "expand=group,physicalDevices,physicalDevices.group"
    base = f"{cloud.base_url}/api/v2"
    bare = base.removeprefix("http://")
    group = {"label": f"Group {GROUP[:4].upper()}", "_links": []}
    assert await visitor.get(f"data-session/{session.id}?{expand}&{names}") == {
        "label": session.label,
        "physicalDevices": [
            {
                "label": f"BACE Go {DEVICE[:4].upper()}",
                "group": group,
                "_links": {
                    "self": {"href": f"{bare}/physical-device/view?id={DEVICE}"},
                    "index": {"href": f"{bare}/physical-device/index"},
                },
            }
        ],
        "group": group,
        "_links": {
            "self": {"href": f"{base}/data-session/view?id={session.id}"},
            "index": {"href": f"{base}/data-session/index"},
        },
    }


async def test_every_listed_relation_can_be_expanded(visitor, cloud, only):
    """All names in ``expand`` work, in lists too; person only where the switch says so."""
    person = identifier("a person")
    only(DataSession.of([(PULSE, START, 60), (BATTERY, START, 4)], person=person))
    names = (await visitor.get("data-session"))["expand"]
    item = (await visitor.get(f"data-session?expand={','.join(names)},person,magic"))["items"][0]
    assert set(names) <= set(item)
    assert "person" not in item
    assert "magic" not in item
    assert item["datatypes"] == [5205, 6000]
    both = sorted([BATTERY.id_container_data_latest, PULSE.id_container_data_latest])
    assert sorted(item["dataIds"]) == both
    assert item["fromDevice"]["id_physical_device"] == DEVICE
    assert item["creator"] is None
    assert list(item)[-1] == "_links"
    cloud.behaviour = Behaviour(expand_person=True, data_id_objects=True)
    item = (await visitor.get("data-session?expand=person,dataIds"))["items"][0]
    assert item["person"]["id_person"] == person
    assert sorted(one["id_container_data_latest"] for one in item["dataIds"]) == both


async def test_groups_and_devices_look_like_the_documents_examples(visitor):
    """Groups link by path only and have a numeric string as type; devices have the documented fields."""
    groups = await visitor.get("group?expand=latestSession")
    group = groups["items"][0]
    assert list(group)[:8] == [
        "id",
        "id_group",
        "label",
        "type",
        "type_label",
        "subtype",
        "id_country",
        "created_at",
    ]
    assert group["type"] == "5003"
    assert group["latestSession"]["start"] == START
    assert group["_links"]["downsampled_data"] == {
        "href": f"/api/v2/data-downsampled?filter[id_group]={GROUP}"
    }
    device = await visitor.get(f"physical-device/{DEVICE}?expand=group,parent")
    assert (device["id_device_type"], device["is_connected"], device["parent"]) == ("bace-go", 0, None)
    assert device["group"]["id_group"] == GROUP
    assert await visitor.get(f"physical-device/view?id={DEVICE}&expand=group,parent") == device


# --- sort -----------------------------------------------------------------------------------------


async def test_sorting_is_natural_and_knows_its_attributes(visitor, only):
    """Text sorts naturally, minus descends, and only the first attribute counts."""
    only(*named("b10", "b9", "A1"))
    assert await visitor.labels("sort=label") == ["A1", "b9", "b10"]
    assert await visitor.labels("sort=-label") == ["b10", "b9", "A1"]
    assert await visitor.labels("sort=start") == ["b10", "b9", "A1"]
    assert await visitor.labels("sort=-start,label") == ["A1", "b9", "b10"]


async def test_the_documents_typo_gives_an_unnamed_order(visitor, cloud, only):
    """An unknown sort attribute is ignored (or refused), and the default order is not chronological."""
    only(*named(*(f"s{i}" for i in range(12))))
    default = await visitor.labels("")
    assert await visitor.labels("sort=-star") == default
    assert default != await visitor.labels("sort=start")
    assert default != await visitor.labels("sort=-start")
    cloud.behaviour = Behaviour(unknown_sort_refused=True)
    status, body = await visitor.refused("data-session?sort=-star")
    assert (status, body[0]["field"]) == (422, "sort")


async def test_sorting_can_be_ignored_or_refused(visitor, cloud, only):
    """Switches take ``sort`` away, entirely or for single attributes."""
    only(*named(*(f"s{i}" for i in range(12))))
    default = await visitor.labels("")
    cloud.behaviour = Behaviour(session_sort=Sorting.IGNORED)
    assert await visitor.labels("sort=start") == default
    cloud.behaviour = Behaviour(session_sort=Sorting.REFUSED)
    assert (await visitor.refused("data-session?sort=start"))[0] == 422
    cloud.behaviour = Behaviour(refused_attributes=frozenset({"updated_at"}))
    assert await visitor.labels("sort=updated_at") == default
    assert await visitor.labels("sort=start") != default
    assert (await visitor.refused("data-session?filter[updated_at][gte]=1"))[0] == 422


async def test_equals_may_change_places_between_answers(visitor, cloud, only):
    """With the switch, what sort does not tell apart comes in another order every time."""
    only(*(DataSession.of([(BATTERY, START, 1)], start=START, label=f"s{i}") for i in range(12)))
    assert await visitor.labels("sort=start") == await visitor.labels("sort=start")
    cloud.behaviour = Behaviour(ties_shuffled=True)
    first, second = await visitor.labels("sort=start"), await visitor.labels("sort=start")
    assert first != second
    assert sorted(first) == sorted(second)
    await visitor.ask("/api/v2/user/self")
    by_label = await visitor.labels("sort=label")
    assert by_label == [f"s{i}" for i in range(12)]


# --- filter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("filter[label]=MyLabel", ["MyLabel"]),
        ("filter[label][like]=Label", ["MyLabel"]),
        ("filter[label][eq]=A1", ["A1"]),
        ("filter[label][neq]=A1", ["MyLabel", "A2", "b1", "b2", "BACE acc/gyro"]),
        ("filter[label][in][0]=A1&filter[label][in][1]=A2", ["A1", "A2"]),
        ("filter[label][in][]=A1&filter[label][in][]=A2", ["A1", "A2"]),
        ("filter[or][0][label][like]=b2&filter[or][1][label][like]=b1", ["b1", "b2"]),
        ("filter[and][0][label][like]=bace&filter[and][1][label][like]=acc/gyro", ["BACE acc/gyro"]),
        (f"filter[start][gt]={START}&filter[start][lte]={START + 7200}", ["A1", "A2"]),
        (f"filter[start][gte]={START}&filter[start][lt]={START + 7200}", ["MyLabel", "A1"]),
        (f"filter[start][gte]={START + 14400}&filter[label][like]=B", ["b2", "BACE acc/gyro"]),
        (
            f"filter[or][0][and][0][label]=A1&filter[or][0][and][1][start][lt]=1&filter[or][1][start]={START}",
            ["MyLabel"],
        ),
        ("filter[id_person]=NULL&filter[label]=A2", ["A2"]),
        ("filter[id_person][neq]=x", []),
        ("filter[isIngestionFinished]=1&filter[label]=A2", ["A2"]),
        ("filter[isArchived]=1", []),
        ("filter[datapoint_count]=1&filter[label]=A2", ["A2"]),
        ("filter[end][in][0]=1", []),
    ],
)
async def test_the_filter_grammar_is_the_documents(visitor, only, query, expected):
    """Every operator of the documents works as their examples write it."""
    only(*named("MyLabel", "A1", "A2", "b1", "b2", "BACE acc/gyro"))
    assert await visitor.labels(f"sort=start&{query}") == expected


async def test_a_json_body_filters_like_the_url_and_the_url_wins(visitor, only):
    """The documents' body gives what the equal URL gives; with both, the body does nothing."""
    only(*named("site 1", "house"))
    body = {"filter": {"or": [{"label": {"like": "site"}}, {"type": 5003}]}}
    assert len((await visitor.get("group", json=body))["items"]) == 1
    body = {"filter": {"label": {"like": "SITE"}}}
    answer = await visitor.get("data-session", json=body)
    assert [item["label"] for item in answer["items"]] == ["site 1"]
    answer = await visitor.get("data-session?filter[label]=house", json=body)
    assert [item["label"] for item in answer["items"]] == ["house"]
    plain = await visitor.get("data-session?sort=start", data=json.dumps(body), headers=None)
    assert len(plain["items"]) == 2
    nulls = {"filter": {"id_person": None, "start": {"in": [START]}, "isArchived": False}}
    assert len((await visitor.get("data-session", json=nulls))["items"]) == 1


async def test_a_broken_json_body_is_a_400(visitor):
    """A body that says that it is JSON and is none is refused."""
    headers = {"Authorization": f"Bearer {visitor.cloud.token()}", "Content-Type": "application/json"}
    status, body = await visitor.refused("data-session", data="{", headers=headers)
    assert (status, body["message"]) == (400, "Invalid JSON data in request body: Syntax error.")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("filter[x]=1", 'Unknown filter attribute "x"'),
        (
            "filter[start][around]=1",
            'Condition for "start" should be either a value or valid operator specification.',
        ),
        ("filter[start][gte]=soon", "start must be an integer."),
        ("filter[start][gte]=1.5", "start must be an integer."),
        ("filter[start][like]=1", '"start" does not support operator "like".'),
        ("filter[label][lt]=a", '"label" does not support operator "lt".'),
        ("filter[label][in]=a", 'Operator "in" requires multiple operands.'),
        ("filter[or]=a", 'Operator "or" requires multiple operands.'),
        ("filter=a", "The format of Filter is invalid."),
        ("filter[isArchived]=maybe", 'isArchived must be either "1" or "0".'),
        ("filter[label][eq][a]=1", "label is invalid."),
    ],
)
async def test_a_bad_filter_is_a_422_with_an_array(visitor, query, message):
    """Yii2 answers failed validations with an array, not with the error object."""
    status, body = await visitor.refused(f"data-session?{query}")
    assert status == 422
    assert body == [{"field": "filter", "message": message}]


async def test_unknown_filters_can_be_ignored(visitor, cloud):
    """A switch lets the service overlook what it does not know."""
    cloud.behaviour = Behaviour(unknown_filters_ignored=True)
    assert len(await visitor.labels("filter[x]=1")) == 1


# --- the life of a session ------------------------------------------------------------------------


async def test_a_session_lives_on_the_clock(visitor, clock, only, cloud):
    """It appears, grows, ends, is ingested 317 s later and archived; each but growth changes the record."""
    session = documented(archived_at=START + 10_000)
    only(session)

    async def seen():
        found = (await visitor.get("data-session"))["items"]
        names = ("end", "updated_at", "archived_at", "datapoint_count", "isIngestionFinished", "isArchived")
        return tuple(found[0][name] for name in names) if found else None

    clock.now = START - 1
    assert await seen() is None
    assert (await visitor.refused(f"data-session/{session.id}"))[0] == 404
    clock.now = START + 4
    assert await seen() == (None, START + 4, None, 0, False, False)
    clock.now = START + 46.995
    assert await seen() == (None, START + 4, None, 1, False, False)
    assert len(cloud.samples(session.id)) == 1
    clock.now = 1_648_643_066.9
    assert await seen() == (None, START + 4, None, 10, False, False)
    clock.now = 1_648_643_067
    assert await seen() == (1_648_643_067, 1_648_643_067, None, 10, False, False)
    clock.now = 1_648_643_384
    assert await seen() == (1_648_643_067, 1_648_643_384, None, 10, True, False)
    clock.now = START + 10_000
    assert await seen() == (1_648_643_067, START + 10_000, START + 10_000, 10, True, True)


async def test_a_session_may_never_end(visitor, clock, only):
    """A session without an end stays active for ever."""
    only(DataSession.of([(PULSE, START + 1, 60)], start=START, ends=False))
    clock.now += 10**8
    item = (await visitor.get("data-session"))["items"][0]
    assert (item["end"], item["isIngestionFinished"], item["updated_at"]) == (None, False, START + 4)


async def test_a_session_can_be_uploaded_late(visitor, clock, only):
    """A record that is created long after its start is not there before."""
    only(documented(created_at=START + 5_000_000, ingested_at=START + 5_000_100))
    assert (await visitor.get("data-session"))["items"] == []
    clock.now = START + 5_000_000
    item = (await visitor.get("data-session"))["items"][0]
    assert (item["start"], item["end"], item["updated_at"]) == (START, 1_648_643_067, START + 5_000_000)


LATE = Samples.of([(PULSE, START + 5.5, 61), (PULSE, START + 6.5, 62)])


@pytest.mark.parametrize(
    ("case", "count", "bumped"),
    [
        ((Behaviour(), False), 12, True),
        ((Behaviour(), True), 12, False),
        ((Behaviour(late_data_bumps=False), False), 12, False),
        ((Behaviour(count_frozen=True), False), 10, True),
        ((Behaviour(count_error=-3), False), 9, True),
    ],
)
async def test_late_data_arrives(visitor, clock, case, count, bumped):
    """Late samples count from their arrival, and change the record unless the switches say otherwise."""
    cloud = visitor.cloud
    cloud.behaviour, silently = case
    session = documented()
    path = f"data-session/{session.id}"
    before = await visitor.get(path)
    cloud.add_samples(session.id, LATE, arrive_at=clock.now + 100, silently=silently)
    assert await visitor.get(path) == before
    clock.now += 100
    after = await visitor.get(path)
    assert after["datapoint_count"] == count
    assert after["updated_at"] == (int(clock.now) if bumped else before["updated_at"])
    truth = cloud.samples(session.id)
    assert len(truth) == 12
    assert sorted(truth.time_ms[truth.dataset == truth.datasets.index(PULSE)]) == [
        START * 1000 + 5500,
        START * 1000 + 6500,
    ]


async def test_a_session_can_be_replaced(visitor, cloud):
    """A session that is put again has the new content under the old id."""
    session = documented()
    cloud.put(replace(session, label="renamed"))
    assert await visitor.labels("") == ["renamed"]
    assert len(cloud.sessions()) == 1
    with pytest.raises(KeyError):
        cloud.session("nobody")


# --- CSV ------------------------------------------------------------------------------------------


async def test_a_session_can_be_downloaded_as_csv(visitor):
    """The download is a named CSV file with one line a sample, in the order of time."""
    session = documented()
    status, body, headers = await visitor.ask(f"/api/v2/data-session/{session.id}/download-csv")
    assert status == 200
    assert headers["Content-Type"].startswith("text/csv")
    assert headers["Content-Disposition"] == 'attachment; filename="BACE_Go_XXX_2022_03_30_14_04.csv"'
    lines = body.decode().splitlines()
    assert len(lines) == 11
    assert lines[0].split(",")[0] == "timestamp_seconds"
    assert lines[1].split(",") == [
        "1648641939.995",
        BATTERY.id_container_data_latest,
        GROUP,
        DEVICE,
        "5205",
        "3.95",
    ]
    assert (await visitor.refused("data-session/a/download-csv"))[0] == 404


# --- what happens ---------------------------------------------------------------------------------


async def test_requests_are_logged_and_may_change_the_cloud_first(visitor, cloud):
    """A listener is awaited before the answer; the log has the query, the body and the status."""
    late = named("late")[0]

    async def insert(request):
        cloud.put(late)

    cloud.on_request = insert
    body = {"filter": {"label": "late"}}
    assert len((await visitor.get("data-session?a=1&a=2", json=body))["items"]) == 1
    (request,) = cloud.requests
    assert (request.method, request.path, request.status) == ("GET", "/api/v2/data-session", 200)
    assert request.query.getall("a") == ["1", "2"]
    assert json.loads(request.body) == body
    assert request.headers["content-type"] == "application/json"
    cloud.forget_requests()
    assert cloud.requests == ()


async def test_the_date_header_is_the_service_s_clock(visitor, cloud, clock):
    """Date tells the vendor's now, which may be wrong by a skew."""
    for skew in (0, 90):
        cloud.behaviour = Behaviour(clock_skew=skew)
        _, _, headers = await visitor.ask("/api/v2/data-session")
        assert parsedate_to_datetime(headers["Date"]) == datetime.fromtimestamp(clock.now + skew, UTC)


async def test_faults_happen_to_the_paths_they_wait_for(visitor, cloud):
    """A fault replaces or spoils one answer of its path, and then the service is well again."""
    limited = {"X-Rate-Limit-Reset": "7"}
    cloud.fail_next(Fault(status=429, retry_after=3, more_headers=limited), path="data-session")
    cloud.fail_next(MALFORMED_JSON, path="group")
    cloud.fail_next(HTML_PAGE, path="token")
    assert (await visitor.ask("/api/v2/user/self"))[0] == 200
    status, body, headers = await visitor.ask("/api/v2/data-session")
    assert (status, headers["Retry-After"], headers["X-Rate-Limit-Reset"]) == (429, "3", "7")
    assert json.loads(body)["type"] == "yii\\web\\TooManyRequestsHttpException"
    _, body, _ = await visitor.ask("/api/v2/group")
    with pytest.raises(ValueError, match="Unterminated"):
        json.loads(body)
    _, _, headers = await visitor.ask("/oauth2/token", method="POST")
    assert headers["Content-Type"] == "text/html"
    assert (await visitor.ask("/api/v2/data-session"))[0] == 200
    assert len(cloud.faults) == 0


@pytest.mark.parametrize(("fault", "times"), [(Fault(reset=True), 2), (Fault(cut_after=10), 1)])
async def test_a_connection_can_break(visitor, cloud, fault, times):
    """A reset or a cut is what a client sees when the network breaks (it tries again itself after one)."""
    cloud.fail_next(fault, times=times)
    with pytest.raises(aiohttp.ClientError):
        await visitor.ask("/api/v2/data-session")
    assert (await visitor.ask("/api/v2/data-session"))[0] == 200


async def test_an_answer_can_stall(visitor, cloud):
    """A stalled answer makes the client wait."""
    cloud.fail_next(Fault(stall=30))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(visitor.ask("/api/v2/data-session"), 0.2)


async def test_answers_are_compressed_for_those_who_ask(visitor, cloud):
    """With the switch, gzip is used for clients that accept it."""
    cloud.behaviour = Behaviour(gzip=True)
    _, body, headers = await visitor.ask("/api/v2/data-session")
    assert headers["Content-Encoding"] == "gzip"
    assert json.loads(body)["_meta"]["totalCount"] == 1

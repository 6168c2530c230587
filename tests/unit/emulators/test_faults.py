"""A fault spoils an answer exactly as it says, for either cloud."""

from __future__ import annotations

import json

import aiohttp
import pytest

from sync.emulators.bace import BaceCloud, Fleet
from sync.emulators.beddit import BedditCloud, Disorder, Fault, Study


@pytest.fixture
async def beddit():
    """Nine short nights, and a function that gets the list of them."""
    async with (
        BedditCloud(Study(users=(1,), nights=9, hours=0.1, raw_signal=False)) as cloud,
        aiohttp.ClientSession(headers={"Authorization": f"UserToken {cloud.token(1)}"}) as http,
    ):

        async def get():
            async with http.get(f"{cloud.base_url}/api/v1/user/1/session?updated_after=0") as answer:
                return answer.status, await answer.read()

        yield cloud, get


@pytest.fixture
async def bace():
    """Nine data sessions, and a function that gets the list of them."""
    async with (
        BaceCloud(Fleet(sessions=9)) as cloud,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {cloud.token()}"}) as http,
    ):

        async def get():
            async with http.get(f"{cloud.base_url}/api/v2/data-session") as answer:
                return answer.status, await answer.read()

        yield cloud, get


async def test_a_list_in_disorder(beddit):
    """Sessions come in another order, or each twice in a row, and are otherwise the same."""
    cloud, get = beddit
    true = json.loads((await get())[1])
    cloud.fail_next(Fault(disorder=Disorder.DOUBLED))
    assert json.loads((await get())[1]) == [session for session in true for _ in range(2)]
    cloud.fail_next(Fault(disorder=Disorder.SHUFFLED))
    shuffled = json.loads((await get())[1])
    assert shuffled != true
    assert sorted(shuffled, key=lambda session: session["id"]) == true


async def test_a_page_in_disorder(bace):
    """The items of a page are disordered; its envelope says what it said."""
    cloud, get = bace
    true = json.loads((await get())[1])
    cloud.fail_next(Fault(disorder=Disorder.DOUBLED))
    doubled = json.loads((await get())[1])
    assert doubled == {**true, "items": [item for item in true["items"] for _ in range(2)]}
    cloud.fail_next(Fault(disorder=Disorder.SHUFFLED))
    shuffled = json.loads((await get())[1])
    assert shuffled["items"] != true["items"]
    assert {item["id_data_session"] for item in shuffled["items"]} == {
        item["id_data_session"] for item in true["items"]
    }


@pytest.mark.parametrize("body", [b"no JSON", b'"text"', b'{"items": 1}'])
async def test_what_has_no_items_is_not_disordered(beddit, body):
    """An answer without a list of items arrives as it is."""
    cloud, get = beddit
    cloud.fail_next(Fault(body=body, disorder=Disorder.DOUBLED))
    assert await get() == (200, body)


@pytest.mark.parametrize("status", [418, 599])
async def test_any_status(beddit, bace, status):
    """A status need not be a usual or even a registered one."""
    for cloud, get in (beddit, bace):
        cloud.fail_next(Fault(status=status))
        assert (await get())[0] == status

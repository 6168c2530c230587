"""A folder of saved sessions is served as it was saved, and everything else in it is accounted for."""

import json

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.emulators.beddit import BedditCloud, read_archive
from sync.emulators.beddit.archive import _contents


def session(session_id, **more):
    """A small saved session."""
    return {
        "id": session_id,
        "start_timestamp": session_id + 0.25,
        "end_timestamp": session_id + 100.25,
        "time_value_tracks": {"heart_rate": {"value_data_type": "float32", "items": [[30, 60.5]]}},
        **more,
    }


def save(folder, name, content):
    """Write bytes, text or a JSON value into a file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


async def answer(archive, user_id=1, **query):
    """What the cloud answers over an archive, byte for byte."""
    async with BedditCloud(archive=archive) as cloud, aiohttp.ClientSession() as http:
        url = f"{cloud.base_url}/api/v1/user/{user_id}/session"
        headers = {"Authorization": f"UserToken {cloud.token(user_id)}"}
        async with http.get(url, params=query or EVERYTHING, headers=headers) as response:
            assert response.status == 200
            return await response.read()


EVERYTHING = {"start_timestamp": "0", "end_timestamp": "1e12"}


async def test_elements_are_served_byte_for_byte(tmp_path):
    """Blanks, long numbers, NaN, escapes and other alphabets arrive as they were saved."""
    texts = [
        '{ "id":1,"start_timestamp":1.0000000000000000001, "x":[NaN,-Infinity,1E400,0.10],"n":"T\\u00e4"}',
        '{"start_timestamp": 2,\n "id": 2, "place": "Jyväskylä 睡眠", "sampled_tracks": {"normal": { }} }',
    ]
    save(tmp_path, "all.json", "\ufeff [\n" + " ,\n".join(texts) + "\n]\n")
    archive = read_archive(tmp_path)
    assert await answer(archive) == ("[" + ", ".join(texts) + "]").encode()
    assert (archive.passed_over, archive.damaged) == ((), ())


async def test_directories_name_users(tmp_path):
    """A directory at the top whose name is an integer names the user of everything in it."""
    save(tmp_path, "1001/2016/night.json", session(10))
    save(tmp_path, "1002/nights.json", [session(20), session(21)])
    save(tmp_path, "old/1003/night.json", session(30))
    save(tmp_path, "night.json", session(40))
    found = read_archive(tmp_path, default_user=7).sessions
    ids = {user: sorted(saved.session_id for saved in sessions) for user, sessions in found.items()}
    assert ids == {7: [30, 40], 1001: [10], 1002: [20, 21]}


def test_files_that_are_no_sessions_are_passed_over_with_a_sentence(tmp_path):
    """Sleep objects, profiles, other JSON, no JSON, empty and cut files are each told apart."""
    contents = {
        "cut.json": '{"id": 1, "start_timestamp": 1, "time',
        "empty.json": "",
        "nothing.json": [],
        "photo.jpg": b"\xff\xd8\xff\xe0",
        "profile.json": {"id": 1001, "name": "A", "email": "a@example.org"},
        "sleep.json": [
            {"date": "2016-08-16", "start_timestamp": 1, "properties": {}, "time_value_tracks": {}}
        ],
        "words.json": '"a string"',
    }
    for name, content in contents.items():
        save(tmp_path, name, content)
    archive = read_archive(tmp_path)
    assert archive.sessions == {}
    assert {note.path.name: note.reason for note in archive.passed_over} == {
        "cut.json": "is cut or malformed before its end: 0 elements can be read",
        "empty.json": "is empty",
        "nothing.json": "is an empty array: there is no session in it",
        "photo.jpg": "is not JSON: it starts with neither [ nor {",
        "profile.json": "holds JSON, but nothing in it is a session",
        "sleep.json": "holds sleep objects (analyses of nights), not sessions",
        "words.json": "is not JSON: it starts with neither [ nor {",
    }


def test_a_file_that_cannot_be_opened_is_passed_over(tmp_path, monkeypatch):
    """An unreadable file is named with the system's reason, and the others are read."""
    save(tmp_path, "good.json", session(1))
    bad = save(tmp_path, "locked.json", session(2))
    opened = type(bad).open

    def refuse(path, *arguments, **options):
        if path == bad:
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **options)

    monkeypatch.setattr(type(bad), "open", refuse)
    archive = read_archive(tmp_path)
    assert [(note.path, note.reason) for note in archive.passed_over] == [
        (bad, "cannot be read: Permission denied")
    ]
    assert len(archive.sessions[1]) == 1


def test_a_missing_folder_is_an_error(tmp_path):
    """A folder that is not there is not an empty archive."""
    with pytest.raises(NotADirectoryError):
        read_archive(tmp_path / "nowhere")


async def test_the_newest_version_wins_and_else_the_later_file(tmp_path):
    """Of one session in several files the newest ``updated`` is served, of equals the later file's."""
    save(
        tmp_path, "a.json", [session(1, updated=9.0, v="a"), session(2, v="a"), session(3, updated=5, v="a")]
    )
    save(tmp_path, "b.json", [session(1, updated=8.0, v="b"), session(2, v="b"), session(3, v="b")])
    served = {found["id"]: found["v"] for found in json.loads(await answer(read_archive(tmp_path)))}
    assert served == {1: "a", 2: "b", 3: "a"}


async def test_a_session_without_updated_is_served_as_it_is(tmp_path):
    """It is in its range, and counts as put at 0 for ``updated_after``."""
    save(tmp_path, "night.json", session(1))
    archive = read_archive(tmp_path)
    assert "updated" not in json.loads(await answer(archive))[0]
    assert await answer(archive, updated_after="0") == b"[]"
    assert len(json.loads(await answer(archive, updated_after="-1"))) == 1


async def test_malformed_elements_do_not_lose_their_neighbours(tmp_path):
    """What is JSON is served, session or not; what is no JSON is counted; neighbours survive both."""
    good = json.dumps(session(1))
    later = json.dumps(session(2))
    broken = '{"id": 3, "start_timestamp": }'
    text = f'[{good}, 42, {broken}, {{"time_value_tracks": "]["}}, nonsense, {later}]'
    path = save(tmp_path, "mixed.json", text)
    archive = read_archive(tmp_path)
    served = json.loads(await answer(archive))
    assert sorted(found["id"] for found in served if isinstance(found, dict) and "id" in found) == [1, 2]
    assert 42 in served
    assert {"time_value_tracks": "]["} in served
    assert len(served) == 4
    assert [(note.path, note.reason) for note in archive.damaged] == [
        (path, "has 2 malformed elements: 4 elements can be read")
    ]


async def test_bytes_that_are_no_utf8_stay_out_of_answers(tmp_path):
    """One element in another encoding would spoil a whole answer, so it counts as malformed."""
    latin = json.dumps(session(1)).replace('"id"', '"name": "J\xe4nne", "id"').encode("latin-1")
    save(tmp_path, "mixed.json", b"[" + latin + b", " + json.dumps(session(2)).encode() + b"]")
    archive = read_archive(tmp_path)
    assert [found["id"] for found in json.loads(await answer(archive))] == [2]
    assert len(archive.damaged) == 1


@pytest.mark.parametrize("cut", [1, 2, 10, 150, 200])
async def test_a_cut_file_gives_its_complete_elements(tmp_path, cut):
    """A file that ends in the middle is reported as damaged, and what is whole in it is served."""
    whole = [json.dumps(session(number)) for number in (1, 2, 3)]
    save(tmp_path, "cut.json", ("[" + ", ".join(whole) + "]")[:-cut])
    archive = read_archive(tmp_path)
    complete = 3 if cut == 1 else 2 if cut < len(whole[-1]) else 1
    assert [found["id"] for found in json.loads(await answer(archive))] == [1, 2, 3][:complete]
    assert [note.reason.split(":")[0] for note in archive.damaged] == ["is cut or malformed before its end"]


def test_pages_appended_to_one_file_are_all_read(tmp_path):
    """Arrays and objects that follow each other in one file are taken as pages of one answer."""
    save(tmp_path, "pages.json", f"{json.dumps([session(1)])}\n[]\n{json.dumps(session(2))}")
    archive = read_archive(tmp_path)
    assert [saved.session_id for saved in archive.sessions[1]] == [1, 2]
    assert archive.damaged == ()


def test_sleep_objects_among_sessions_are_left_out(tmp_path):
    """An analysis saved beside sessions is not served as one."""
    save(tmp_path, "both.json", [session(1), {"date": "2016-08-16", "start_timestamp": 5}])
    assert len(read_archive(tmp_path).sessions[1]) == 1


async def test_old_addresses_are_removed_and_nothing_else(tmp_path):
    """The addresses of a closed host are gone, all other bytes of the session are as they were."""
    tracks = {"normal": {"data_url": "https://closed.example/x?y", "samples_per_frame": 28}, "é": {"z": NAN}}
    text = json.dumps(session(1, after="é"), ensure_ascii=False).replace(
        '"time_value_tracks"',
        f'"sampled_tracks" :  {json.dumps(tracks, ensure_ascii=False)} ,\n"v":1.50, "time_value_tracks"',
    )
    save(tmp_path, "night.json", text)
    left = json.dumps({"normal": {"samples_per_frame": 28}, "é": {"z": NAN}})
    old = json.dumps(tracks, ensure_ascii=False)
    assert await answer(read_archive(tmp_path)) == f"[{text.replace(old, left)}]".encode()


NAN = float("nan")


async def test_saved_samples_are_served_again(tmp_path):
    """Samples beside a session, under either name, get an address; others are reported."""
    tracks = {
        "normal": {"samples_per_frame": 28, "data_url": "https://closed.example/n", "data_type": "uint16"},
        "noise": {"samples_per_frame": 2, "data_type": "float32"},
    }
    save(tmp_path, "1001/nights.json", [session(5, sampled_tracks=tracks)])
    save(tmp_path, "1001/5.normal", b"\x01\x80" * 10)
    save(tmp_path, "1001/5_noise.bin", b"\x00\x00\x80\x3f")
    stray = save(tmp_path, "1001/6.normal", b"\x00\x80")
    archive = read_archive(tmp_path)
    assert [note.path for note in archive.passed_over] == [stray]
    async with BedditCloud(archive=archive) as cloud, aiohttp.ClientSession() as http:
        url = f"{cloud.base_url}/api/v1/user/1001/session"
        headers = {"Authorization": f"UserToken {cloud.token(1001)}"}
        async with http.get(url, params=EVERYTHING, headers=headers) as response:
            (found,) = await response.json()
        for track, data in (("normal", b"\x01\x80" * 10), ("noise", b"\x00\x00\x80\x3f")):
            address = found["sampled_tracks"][track]["data_url"]
            assert address.startswith(cloud.blob_url)
            async with http.get(aiohttp.client.URL(address, encoded=True)) as response:
                assert await response.read() == data


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.lists(values, max_size=6), st.sampled_from([", ", ",", " ,\n\t"]))
def test_places_of_elements_are_exact(elements, separator):
    """For any array, the places found are exactly the texts of its elements."""
    texts = [json.dumps(element, ensure_ascii=False) for element in elements]
    try:
        encoded = ("[" + separator.join(texts) + "]").encode()
    except UnicodeEncodeError:
        return  # a lone surrogate cannot be in a file
    contents = _contents(encoded.decode("latin-1"))
    assert [encoded[slice(*element.span)].decode() for element in contents.elements] == texts
    assert contents.damage is None


@given(st.text(alphabet='{}[],:"\\ 1aé', max_size=40))
def test_no_text_stops_the_reader(text):
    """Whatever stands in a file, reading it ends, and every place found can be read as JSON."""
    encoded = text.encode()
    for element in _contents(encoded.decode("latin-1")).elements:
        json.loads(encoded[slice(*element.span)])

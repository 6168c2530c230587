import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync import config
from sync.config import HIDDEN, Settings, describe, example_text, fields, find, load
from sync.errors import ConfigurationError

TOKEN = "tok-0123456789"
LAB = """[bace.accounts.lab]
client_id = "lab-client"
client_secret = "c1ient-5ecret"
username = "lab@example.org"
password = "pa55 w0rd"
"""
ALICE = f'[beddit.accounts.alice]\nuser_id = 1001\ntoken = "{TOKEN}"\n'


@pytest.fixture
def write(tmp_path):
    """Give a function that writes a file and returns its path."""

    def _write(text, name="nightshift.toml"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return _write


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory, monkeypatch):
    """Run in an empty folder, without a system-wide file."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    monkeypatch.setattr(config, "SEARCHED", (Path("nightshift.toml"), Path("etc.toml")))


def problems(path, environ=None):
    """Load what cannot be loaded, and return the error's text."""
    with pytest.raises(ConfigurationError) as caught:
        load(path, environ or {})
    return str(caught.value)


# --- where it comes from ---


def test_without_any_file_the_defaults_hold():
    """Nothing has to be configured."""
    settings = load(None, {"PATH": "/bin"})
    assert settings == Settings()
    assert settings.warehouse.dsn is None
    assert settings.beddit.accounts == {}
    assert settings.state_dir.is_absolute()


def test_the_file_asked_for_wins_then_the_variable_then_the_folder_then_the_system(write):
    """The search order is: --config, NIGHTSHIFT_CONFIG, ./nightshift.toml, the system's file."""
    asked, named = write("", "asked.toml"), write("", "named.toml")
    assert find(asked, {"NIGHTSHIFT_CONFIG": str(named)}) == asked
    assert find(None, {"NIGHTSHIFT_CONFIG": str(named)}) == named
    assert find(None, {}) is None
    Path("etc.toml").touch()
    assert find(None, {"NIGHTSHIFT_CONFIG": ""}) == Path("etc.toml")
    Path("nightshift.toml").touch()
    assert find(None, {}) == Path("nightshift.toml")


def test_a_file_that_was_asked_for_must_exist(tmp_path):
    """A missing file that somebody named is an error which names it, however it was named."""
    missing = tmp_path / "none.toml"
    assert str(missing) in problems(missing)
    assert str(missing) in problems(None, {"NIGHTSHIFT_CONFIG": str(missing)})


def test_the_environment_overrides_the_file(write):
    """A variable wins over the file's key; names are case-insensitive; empty variables count as not set."""
    path = write('[log]\nlevel = "error"\nformat = "json"\n' + ALICE)
    environ = {
        "NIGHTSHIFT_LOG__LEVEL": "debug",
        "NIGHTSHIFT_LOG__FORMAT": "",
        "NIGHTSHIFT_WAREHOUSE__POOL_SIZE": "9",
        "NIGHTSHIFT_BEDDIT__ALLOW_PRIVATE_BLOB_HOSTS": "true",
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__ALICE__TOKEN": "other-token",
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__BOB__USER_ID": "1002",
        "NIGHTSHIFT_BEDDIT__ACCOUNTS__BOB__TOKEN": "[1]",
        "NIGHTSHIFT_TEST_DSN": "not ours to judge",
    }
    settings = load(path, environ)
    assert (settings.log.level, settings.log.format, settings.warehouse.pool_size) == ("debug", "json", 9)
    assert settings.beddit.allow_private_blob_hosts
    accounts = settings.beddit.accounts
    assert {name: account.token.get_secret_value() for name, account in accounts.items()} == {
        "alice": "other-token",
        "bob": "[1]",
    }
    assert accounts["alice"].user_id == 1001


def test_paths_begin_at_the_file_that_holds_them(write, tmp_path, monkeypatch):
    """Relative paths mean the same from every folder; variables and ~ are filled in."""
    monkeypatch.setenv("HOME", "/home/me")
    path = write('state_dir = "state"\n[beddit]\nca_file = "${CERTS}/ca.pem"')
    settings = load(path, {"CERTS": "/certs"})
    assert settings.state_dir == tmp_path / "state"
    assert settings.beddit.ca_file == Path("/certs/ca.pem")
    assert load(path, {"CERTS": "~"}).beddit.ca_file == Path("/home/me/ca.pem")
    assert load(None, {"NIGHTSHIFT_STATE_DIR": "here"}).state_dir == Path.cwd() / "here"
    assert "state_dir" not in problems(path)
    assert "names CERTS, which is not set" in problems(path)


# --- secrets ---


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secret_can_come_from_a_file(write, ending):
    """x_file holds the secret, with or without a newline at its end."""
    write(TOKEN + ending, "secrets/alice")
    path = write('[beddit.accounts.alice]\nuser_id = 1001\ntoken_file = "secrets/alice"')
    assert load(path, {}).beddit.accounts["alice"].token.get_secret_value() == TOKEN


def test_systemd_credentials_and_docker_secrets_are_files_like_others(write, tmp_path):
    """A path may use CREDENTIALS_DIRECTORY; an absolute path stays as it is, in a variable too."""
    write("postgresql://db/sleep", "credentials/dsn")
    path = write('[warehouse]\ndsn_file = "${CREDENTIALS_DIRECTORY}/dsn"')
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path / "credentials")}
    assert load(path, environ).warehouse.secrets() == {"postgresql://db/sleep"}
    by_variable = {"NIGHTSHIFT_WAREHOUSE__DSN_FILE": str(tmp_path / "credentials/dsn")}
    assert load(None, by_variable).warehouse.secrets() == {"postgresql://db/sleep"}


def test_a_secret_and_its_file_exclude_each_other_within_a_layer(write):
    """Both in the file, or both in the environment, is an error; across the layers the environment wins."""
    both = write(ALICE + 'token_file = "secrets/alice"')
    assert "token_file" in problems(both)
    assert "keep one of the two" in problems(both)
    assert load(both, {"NIGHTSHIFT_BEDDIT__ACCOUNTS__ALICE__TOKEN": TOKEN}).secrets() == {TOKEN}
    write("from-file", "secrets/alice")
    by_file = {"NIGHTSHIFT_BEDDIT__ACCOUNTS__ALICE__TOKEN_FILE": "secrets/alice"}
    assert load(write(ALICE), by_file).secrets() == {"from-file"}
    both_variables = by_file | {"NIGHTSHIFT_BEDDIT__ACCOUNTS__ALICE__TOKEN": TOKEN}
    assert "keep one of the two" in problems(write(ALICE), both_variables)


def test_an_account_of_bace_has_two_secrets(write):
    """Client secret and password come from the file, from files of their own, or from the environment."""
    write("from-file", "secret")
    text = LAB.replace('client_secret = "c1ient-5ecret"', 'client_secret_file = "secret"')
    lab = load(write(text), {"NIGHTSHIFT_BACE__ACCOUNTS__LAB__PASSWORD": "from environment"}).bace.accounts[
        "lab"
    ]
    assert lab.secrets() == {"from-file", "from environment"}
    assert (lab.client_id, lab.username) == ("lab-client", "lab@example.org")
    assert load(write(LAB), {}).secrets() == {"c1ient-5ecret", "pa55 w0rd"}
    for secret in ("client_secret", "password"):
        missing = problems(write(re.sub(f"(?m)^{secret} = .*$", "", LAB)))
        assert f"bace.accounts.lab.{secret}" in missing
        assert f"{secret}_file" in missing


@pytest.mark.parametrize("content", [None, b"\xff\xfe", b"", b"\n"])
def test_a_secret_file_that_does_not_serve_is_named_once(write, tmp_path, content):
    """A secret file that is missing, no text or empty is one problem, which names where it was asked for."""
    if content is not None:
        write(content, "alice")
    text = problems(write('[beddit.accounts.alice]\nuser_id = 1001\ntoken_file = "alice"'))
    assert text.count("\n  - ") == 1
    assert "beddit.accounts.alice.token" in text
    assert str(tmp_path / ("alice" if content in {None, b"\xff\xfe"} else "nightshift.toml")) in text


def test_secrets_are_listed_for_redaction_and_shown_nowhere(write):
    """All secrets are known, the DSN's password in both spellings too; no repr or description has them."""
    dsn = "postgresql://me:p%40ss@db/sleep?password=other"
    settings = load(write(f'[warehouse]\ndsn = "{dsn}"\n' + ALICE), {})
    assert settings.secrets() == {dsn, "p%40ss", "p@ss", "other", TOKEN}
    for text in (repr(settings), str(settings), describe(settings)):
        assert not any(secret in text for secret in settings.secrets())


@given(
    st.sets(st.sampled_from([key for key, _ in fields()]), min_size=1), st.text("s3cret:/[] ", min_size=20)
)
def test_no_message_repeats_a_value(keys, value):
    """Whatever is wrong with a key, its value is not quoted: it may be a secret in the wrong place."""
    names = ["NIGHTSHIFT_" + key.replace(".*", ".a").replace(".", "__").upper() for key in keys]
    assert value not in problems(None, dict.fromkeys([*names, "NIGHTSHIFT_UNKNOWN"], value))


# --- what is wrong ---


def test_all_problems_are_reported_at_once_with_their_origin(write):
    """One error lists every problem with its key, the file or variable it came from, and what to do."""
    path = write('[log]\nlevl = "info"\n[beddit.accounts.alice]\nuser_id = "x"\n')
    text = problems(path, {"NIGHTSHIFT_WAREHOUSE__POOL_SIZE": "0", "NIGHTSHIFT_WAREHOUSE_DSN": "d"})
    assert text.splitlines()[0] == "The configuration has 5 problems:"
    lines = {line.split()[1]: line for line in text.splitlines()[1:]}
    assert f"(file {path}): is unknown; did you mean level?" in lines["log.levl"]
    assert "(variable NIGHTSHIFT_WAREHOUSE__POOL_SIZE): should be greater" in lines["warehouse.pool_size"]
    assert "did you mean NIGHTSHIFT_WAREHOUSE__DSN?" in lines["NIGHTSHIFT_WAREHOUSE_DSN"]
    assert "should be a valid integer" in lines["beddit.accounts.alice.user_id"]
    assert f"(file {path}): is missing; give it, or token_file" in lines["beddit.accounts.alice.token"]


@pytest.mark.parametrize(
    "name",
    [
        "NIGHTSHIFT_X",
        "NIGHTSHIFT_STATE_DIR__X",
        "NIGHTSHIFT_LOG__LEVEL__X",
        "NIGHTSHIFT_BEDDIT__X__Y",
        "NIGHTSHIFT_",
    ],
)
def test_no_variable_of_ours_is_ignored(name):
    """A variable with our prefix that means nothing is an error, wherever its name goes astray."""
    assert name in problems(None, {name: "1"})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("_env_file = 1", "_env_file"),
        ("log = 1", "log .*: should be a table; write its keys under \\[log\\]"),
        ("[log.level]\nx = 1", r"log\.level .*should be 'debug'"),
        ('[beddit]\nbase_url = "http://cloudapi.beddit.com"', "should begin with https"),
        ('[beddit]\nbase_url = "https://me:pw@host"', "no user name"),
        ('[beddit]\nbase_url = "https://["', "is not a valid address"),
        ("[beddit]\noverlap_s = nan", r"beddit\.overlap_s"),
        ("[beddit]\nhistory_start = 2012-13-01", "line 2"),
        ('[warehouse]\ndsn = "mysql://x"', "should look like postgresql://"),
        ('[warehouse]\ndsn = ""', r"warehouse\.dsn .*is empty"),
        ("[warehouse]\ndsn_file = 1", "should be a path"),
        (ALICE.replace("alice", "Alice"), r"Alice .*use only a-z"),
        (ALICE.replace(TOKEN, "two words"), "should be one word"),
        (ALICE + ALICE.replace("alice", "bob"), "alice and bob have the same user_id"),
        (LAB + LAB.replace("accounts.lab", "accounts.ward"), "lab and ward have the same username"),
        (LAB.replace('"lab@example.org"', '""'), r"bace\.accounts\.lab\.username .*should have at least 1"),
        ('[bace]\nbase_url = "https://host/api/v2/"', "should end with the host"),
    ],
)
def test_what_cannot_work_is_refused_with_a_reason(write, text, complaint):
    """Each mistake is refused at start-up, by a sentence that says what would be right."""
    assert re.search(complaint, problems(write(text)))


@pytest.mark.parametrize("host", ["localhost:8080", "127.0.0.1:1", "[::1]:8080"])
def test_plain_http_is_for_this_very_machine(host):
    """An emulated cloud on loopback needs no certificate; a slash at the end is dropped."""
    settings = load(None, {"NIGHTSHIFT_BEDDIT__BASE_URL": f"http://{host}/"})
    assert settings.beddit.base_url == f"http://{host}"


@pytest.mark.parametrize(
    ("text", "place"), [("a = 1\nb = = 2", "line 2, column 5"), ('a = """x\n', "line 2, column 1")]
)
def test_a_syntax_error_is_located(write, text, place):
    """A file that is no TOML is refused by file, line and column, also when it ends too early."""
    path = write(text)
    message = problems(path)
    assert str(path) in message
    assert place in message


def test_a_file_that_is_no_text_is_refused(write):
    """Bytes that are no UTF-8 are located by line."""
    assert "line 2" in problems(write(b"# x\n\xff"))


# --- what it says about itself ---


def test_settings_are_frozen():
    """Nobody changes the configuration while it is in use."""
    with pytest.raises(ValueError, match="frozen"):
        Settings().log.level = "debug"


def test_every_field_is_described():
    """Every key has a sentence that the documentation and the errors use."""
    assert [key for key, field in fields() if not (field.description or "").endswith(".")] == []


def test_the_description_is_toml_that_says_the_same(write):
    """What describe prints, with its secrets put back, is a file with the same meaning."""
    settings = load(
        write('[warehouse]\ndsn = "postgresql://db/x"\n[beddit]\nca_file = "a\\u007f\\"b"\n' + ALICE), {}
    )
    text = describe(settings).replace(f'dsn = "{HIDDEN}"', 'dsn = "postgresql://db/x"').replace(HIDDEN, TOKEN)
    assert load(write(text, "again.toml"), {}) == settings
    assert "# ca_file is not set" in describe(Settings())


def test_the_example_as_it_stands_says_nothing(write):
    """Copying the example changes no default."""
    assert load(write(example_text()), {}) == Settings()


def test_the_example_uncommented_has_every_key_and_every_default(write):
    """The example's keys, values and comments are the settings' keys, defaults and descriptions."""
    text = re.sub("(?m)^#(?! |$)", "", example_text())
    for secret in ("alice.token", "lab.client-secret", "lab.password"):
        write(TOKEN, f"secrets/{secret}")
    write("postgresql://db/sleep", "secrets/dsn")
    settings = load(write(text), {})

    def keys(table, prefix=""):
        for key, value in table.items():
            yield prefix + key
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{key}.")

    secret_file = r"(dsn|token|client_secret|password)_file$"
    documented = {re.sub(secret_file, r"\1", key) for key in keys(tomllib.loads(text))}
    documented = {re.sub(r"\.(alice|lab)", ".*", key) for key in documented}
    documented -= {"beddit.accounts.*", "bace.accounts.*"}
    assert documented == {key for key, _ in fields()}

    cloud = {"accounts", "ca_file"}
    without_default = {"state_dir": True, "warehouse": {"dsn"}, "beddit": cloud, "bace": cloud}
    assert settings.model_dump(exclude=without_default) == Settings().model_dump(exclude=without_default)

    words = " ".join(example_text().replace("#", " ").split())
    assert [key for key, field in fields() if " ".join(field.description.split()) not in words] == []

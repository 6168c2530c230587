"""Configuration: a TOML file, the environment over it, checked once and frozen.

Every table of the file is one class here, every key one described field; defaults stand here and nowhere
else. ``load`` joins the two layers::

    nightshift.toml ─┐
                     ├─► overlay ─► resolve ─► validate ─► Settings
    NIGHTSHIFT_* ────┘              (unknown keys, paths, secret files)

A secret ``x`` can also be given as ``x_file``, the path of a file that holds it. All that is wrong is
reported at once, by key and origin. No message repeats a *value*: any of them may be a secret that was
pasted into the wrong place.

A new source is one ``Section`` and one field of ``Settings``.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from importlib import resources
from ipaddress import ip_address
from pathlib import Path
from string import Template
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from platformdirs import user_state_path
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
)
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from sync.errors import ConfigurationError
from sync.schedule import Schedule

PREFIX = "NIGHTSHIFT_"
CONFIG_VARIABLE = "NIGHTSHIFT_CONFIG"
# With our prefix, but no settings; the second one points the test-suite at a server.
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "NIGHTSHIFT_TEST_DSN"})
SEARCHED = (Path("nightshift.toml"), Path("/etc/nightshift/nightshift.toml"))
EXAMPLE = "nightshift.example.toml"
HIDDEN = "********"
NEVER = NOWHERE = "off"

_NESTED = "__"
_FROM_FILE = "_file"
_ANY_NAME = "*"

Location = tuple[str, ...]


# --- the kinds of values ------------------------------------------------------------------------


def _split(address: str) -> SplitResult:
    try:
        parts = urlsplit(address)
        _ = parts.port  # only looking at it checks it
    except ValueError:
        raise ValueError("is not a valid address") from None  # the original quotes its input
    return parts


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_base_url(address: str) -> str:
    parts = _split(address)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        raise ValueError("should look like https://host")
    if parts.scheme == "http" and not _is_loopback(parts.hostname):
        raise ValueError("should begin with https:// (plain http is for this very machine only)")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("should hold no user name, no query and no fragment")
    return address.rstrip("/")


def _check_dsn(dsn: SecretStr) -> SecretStr:
    if _split(dsn.get_secret_value()).scheme not in {"postgresql", "postgres"}:
        raise ValueError("should look like postgresql://user:password@host:5432/database")
    return dsn


def _check_root(address: str) -> str:
    if urlsplit(address).path:
        raise ValueError("should end with the host: /api/v2 and /oauth2/token come after it by themselves")
    return address


def _check_token(token: SecretStr) -> SecretStr:
    text = token.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("should be one word of plain ASCII characters, as it travels in a header")
    return token


def _check_schedule(text: str) -> str:
    Schedule(text)
    return text


def _check_schedule_or_never(text: str) -> str:
    return text if text == NEVER else _check_schedule(text)


def _check_listen(place: str) -> str:
    if place == NOWHERE:
        return place
    try:
        parts = urlsplit(f"//{place}")
        right = parts.hostname and parts.port is not None and parts.netloc == place and "@" not in place
    except ValueError:
        right = False
    if not right:
        raise ValueError(f"should look like 127.0.0.1:9750, or be {NOWHERE}")
    return place


Secret = Annotated[SecretStr, Field(min_length=1)]
BaseUrl = Annotated[str, AfterValidator(_check_base_url)]
AccountName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]
Times = Annotated[str, AfterValidator(_check_schedule)]
TimesOrNever = Annotated[str, AfterValidator(_check_schedule_or_never)]
Listen = Annotated[str, AfterValidator(_check_listen)]


# --- the sections -------------------------------------------------------------------------------


class Section(BaseModel):
    """A table of the file: frozen, and closed to keys that it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        validate_default=True,
    )

    def secrets(self) -> frozenset[str]:
        """Every secret value in this table and in the tables within it."""
        return frozenset(_secrets_in(getattr(self, name) for name in type(self).model_fields))


def _secrets_in(values: Iterable[object]) -> Iterator[str]:
    for value in values:
        match value:
            case SecretStr():
                yield value.get_secret_value()
            case Section():
                yield from value.secrets()
            case dict():
                yield from _secrets_in(value.values())


class Warehouse(Section):
    """Where everything goes."""

    dsn: Annotated[Secret, AfterValidator(_check_dsn)] | None = None
    """PostgreSQL's address, with user and password; without it, an embedded PostgreSQL serves."""
    pool_size: Count = 5
    """Connections to PostgreSQL that one process keeps at most."""
    statement_timeout_s: Seconds = 300
    """Seconds after which PostgreSQL ends a statement of ours."""

    def secrets(self) -> frozenset[str]:
        """The DSN, and the password in it, as written and as PostgreSQL gets it."""
        if self.dsn is None:
            return frozenset()
        dsn = self.dsn.get_secret_value()
        parts = _split(dsn)
        passwords = {
            parts.password or "",
            unquote(parts.password or ""),
            *parse_qs(parts.query).get("password", ()),
        }
        return frozenset({dsn, *passwords} - {""})


class Log(Section):
    """What is written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important events that are written: debug, info, warning or error."""
    format: Literal["auto", "console", "json"] = "auto"
    """console for people, json for machines (one event a line); auto is console on a terminal, else json."""


class Engine(Section):
    """How much happens at once in one process."""

    parallel_accounts: Count = 4
    """Accounts that are read at the same time."""
    parallel_units: Count = 4
    """Units of one account (its raw signals, say) that are read at the same time."""


class Daemon(Section):
    """What `nightshift run` does beside reading, and how it ends."""

    listen: Listen = "127.0.0.1:9750"
    """Where /healthz, /readyz and /metrics are served, as host:port; off serves them nowhere."""
    grace_s: Seconds = 20
    """Seconds that the work in hand has to end when the daemon is told to stop."""
    lease_s: Annotated[float, Field(ge=3)] = 30
    """Seconds of silence after which another process takes over this one's accounts."""
    stale_cycles: Count = 3
    """Cycles without a successful check of an account after which /readyz says no."""
    jitter_s: Annotated[float, Field(ge=0)] = 10
    """Seconds by which a cycle may begin late, at random, so that not everybody asks at once."""
    housekeeping_schedule: Times = "30 3 * * *"
    """When old runs are added up and left-over files removed: like 1d, or a crontab line, in UTC."""


class Cloud(Section):
    """What is the same for every vendor's cloud: how to reach it, and how gently it is treated."""

    base_url: BaseUrl
    """Where the cloud is; https, or http on this very machine."""
    ca_file: Path | None = None
    """Certificates (PEM) to trust beside the system's."""
    requests_per_second: Annotated[float, Field(gt=0)] = 4.0
    """Requests that are sent to one host in a second at most."""
    concurrency: Count = 4
    """Requests to one host that are under way at the same time at most."""
    request_timeout_s: Seconds = 90
    """Seconds that a host may stay silent; servers themselves often give up after 60."""
    schedule: Times = "15m"
    """When the daemon asks for what is new: an interval (30s, 15m, 6h, 1d) or a crontab line, in UTC."""
    retry_schedule: Times = "1h"
    """When it looks again at what could not be had or proved before, if that is due."""
    verify_schedule: TimesOrNever = "off"
    """When it verifies each account, as `nightshift verify` does: like 7d, or a crontab line; off: never."""
    verify_repair: bool = False
    """Whether that verification also reads again what it finds to differ."""


class BedditAccount(Section):
    """One Beddit user."""

    user_id: Annotated[int, Field(ge=1)]
    """The user's number, as Beddit gave it."""
    token: Annotated[Secret, AfterValidator(_check_token)]
    """The user's access token; Beddit gives one for each user."""


def _check_distinct_users(accounts: dict[str, BedditAccount]) -> dict[str, BedditAccount]:
    owner: dict[int, str] = {}
    for name, account in accounts.items():
        first = owner.setdefault(account.user_id, name)
        if first != name:
            raise ValueError(f"{first} and {name} have the same user_id; keep one of them")
    return accounts


class Beddit(Cloud):
    """The Beddit cloud."""

    base_url: BaseUrl = "https://cloudapi.beddit.com"
    """Where the Beddit cloud is; https, or http on this very machine."""
    allow_private_blob_hosts: bool = False
    """Whether sampled tracks may come from private addresses, and over plain http from them."""
    history_start: date = date(2012, 1, 1)
    """The day on which a backfill ends; nothing older is asked for."""
    longest_session_hours: Seconds = 48
    """Hours by which a backfill's windows overlap; no session may be longer."""
    overlap_s: Annotated[float, Field(gt=0)] = 1.0
    """Seconds by which an incremental pass looks behind its cursor."""
    blob_max_bytes: Count = 256 * 1024**2
    """Bytes of one sampled track at most; a larger one is refused."""
    batch_bytes: Count = 8 * 1024**2
    """Bytes of an answer that are decoded before what they hold is committed; bounds the memory."""
    accounts: Annotated[dict[AccountName, BedditAccount], AfterValidator(_check_distinct_users)] = Field(
        default_factory=dict
    )
    """The users whose nights are copied, by a name of your choice (a-z, 0-9, _ and -)."""


class BaceAccount(Section):
    """One BACE account."""

    client_id: Annotated[str, Field(min_length=1)]
    """The client id that the vendor issued for this use of its API."""
    client_secret: Secret
    """The client's secret, issued with it."""
    username: Annotated[str, Field(min_length=1)]
    """The name that the account signs in with, normally an e-mail address."""
    password: Secret
    """The account's password."""


def _check_distinct_logins(accounts: dict[str, BaceAccount]) -> dict[str, BaceAccount]:
    owner: dict[str, str] = {}
    for name, account in accounts.items():
        first = owner.setdefault(account.username, name)
        if first != name:
            raise ValueError(f"{first} and {name} have the same username; keep one of them")
    return accounts


class Bace(Cloud):
    """The BACE cloud."""

    base_url: Annotated[BaseUrl, AfterValidator(_check_root)] = "https://dashboard.bace-iot.com"
    """Where the BACE cloud is, without /api/v2; https, or http on this very machine."""
    accounts: Annotated[dict[AccountName, BaceAccount], AfterValidator(_check_distinct_logins)] = Field(
        default_factory=dict
    )
    """The accounts whose data sessions are copied, by a name of your choice (a-z, 0-9, _ and -)."""


def _default_state_dir() -> Path:
    return Path("/var/lib/nightshift") if os.geteuid() == 0 else user_state_path("nightshift")


class Settings(BaseSettings, Section):
    """The whole configuration."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=_NESTED, enable_decoding=False)

    state_dir: Path = Field(default_factory=_default_state_dir)
    """The folder for tokens, temporary files and the embedded database."""
    warehouse: Warehouse = Warehouse()
    """Where everything goes."""
    log: Log = Log()
    """What is written to standard error."""
    engine: Engine = Engine()
    """How much happens at once in one process."""
    daemon: Daemon = Daemon()
    """What `nightshift run` does beside reading, and how it ends."""
    beddit: Beddit = Beddit()
    """The Beddit cloud."""
    bace: Bace = Bace()
    """The BACE cloud."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Read nothing behind the caller's back: ``load`` joins the layers itself."""
        return (init_settings,)


# --- loading ------------------------------------------------------------------------------------


def find(path: Path | None, environ: Mapping[str, str]) -> Path | None:
    """Say which file would be read: the one asked for, else the first that exists, else none."""
    if path is not None:
        return path
    if named := environ.get(CONFIG_VARIABLE):
        return Path(named)
    return next((candidate for candidate in SEARCHED if candidate.exists()), None)


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Read the configuration.

    Args:
        path: The file that was asked for on the command line.
        environ: The environment; it overrides the file. Empty variables count as not set.

    Raises:
        ConfigurationError: Something is wrong; the text lists all of it.
    """
    file = find(path, environ)
    return _Reader(file, environ).settings()


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        text = file.read_bytes().decode()
    except OSError as error:
        raise ConfigurationError(f"The configuration file {file} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigurationError(
            f"The configuration file {file} is not UTF-8 text, see line {line}."
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        *_, last = lines = text.split("\n")
        end = f"at line {len(lines)}, column {len(last) + 1}"
        what = str(error).replace("at end of document", end)
        raise ConfigurationError(f"The configuration file {file} is not valid TOML: {what}.") from None


def _read_environment(variables: Mapping[Location, str], environ: Mapping[str, str]) -> dict[str, Any]:
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): environ[name] for name in variables.values()}
    return source()


def _overlay(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Join two layers; ``x`` above also displaces ``x_file`` below, and the other way round."""
    joined = {key: value for key, value in below.items() if _twin(key) not in above}
    for key, value in above.items():
        old = joined.get(key)
        joined[key] = _overlay(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return joined


def _twin(key: str) -> str:
    return key.removesuffix(_FROM_FILE) if key.endswith(_FROM_FILE) else key + _FROM_FILE


class _Reader:
    """One reading of the configuration: what was given, where, and what is wrong with it."""

    def __init__(self, file: Path | None, environ: Mapping[str, str]) -> None:
        self._file = file
        self._folder = Path.cwd() if file is None else file.absolute().parent
        self._environ = environ
        self._variables = {
            tuple(name[len(PREFIX) :].lower().split(_NESTED)): name
            for name, value in environ.items()
            if name.upper().startswith(PREFIX) and name not in OTHER_VARIABLES and value
        }
        self._content = {} if file is None else _read_toml(file)
        self._problems: dict[Location, str] = {}

    def settings(self) -> Settings:
        """Check everything, then build the settings or report all problems."""
        given = _read_environment(self._variables, self._environ)
        for where, name in self._variables.items():
            if _at(given, where) != self._environ[name]:
                self._report_unknown_variable(where, name)
        values = self._table(_overlay(self._content, given), Settings, ())
        try:
            settings = Settings(**values)
        except ValidationError as error:
            self._report_invalid(error)
        if self._problems:
            count = "a problem" if len(self._problems) == 1 else f"{len(self._problems)} problems"
            lines = "".join(f"\n  - {problem}" for problem in self._problems.values())
            raise ConfigurationError(f"The configuration has {count}:{lines}")
        return settings

    # Resolving: unknown keys, paths and secret files.

    def _table(self, raw: Mapping[str, Any], section: type[BaseModel], where: Location) -> dict[str, Any]:
        known = list(_keys(section))
        clean: dict[str, Any] = {}
        for key, value in raw.items():
            here = (*where, key)
            if key not in known:
                self._report(here, "is unknown", _suggestion(key, known))
            elif key in section.model_fields:
                clean[key] = self._value(value, section.model_fields[key].annotation, here)
            elif _twin(key) in raw:
                self._report(here, f"is given beside {_twin(key)}", "keep one of the two")
            else:
                clean[_twin(key)] = self._secret(value, here)
        return clean

    def _value(self, value: Any, annotation: Any, where: Location) -> Any:
        kind = _kind(annotation)
        if isinstance(value, dict):
            if get_origin(kind) is dict:
                return {
                    name: self._value(item, get_args(kind)[1], (*where, name)) for name, item in value.items()
                }
            if _is_section(kind):
                return self._table(value, kind, where)
        if kind is Path and isinstance(value, str):
            return self._path(value, where)
        return value

    def _path(self, text: str, where: Location) -> Path | None:
        template = Template(text)
        missing = [name for name in template.get_identifiers() if name not in self._environ]
        if missing:
            self._report(
                where, f"names {missing[0]}, which is not set", "set that variable or write the path out"
            )
            return None
        try:
            return self._folder / Path(template.safe_substitute(self._environ)).expanduser()
        except RuntimeError:
            self._report(where, "begins with ~, but the home folder is unknown", "write the path out")
            return None

    def _secret(self, value: Any, where: Location) -> str | None:
        if not isinstance(value, str):
            self._report(where, "should be a path", "write it as text in quotes")
            return None
        path = self._path(value, where)
        if path is None:
            return None
        try:
            return path.read_bytes().decode().rstrip("\r\n")
        except OSError as error:
            wrong = f"names {path}, which cannot be read ({error.strerror})"
        except ValueError:  # no UTF-8, or a path with a NUL in it
            wrong = f"names {path}, which is no text file"
        self._report(where, wrong, "correct the path, or the file's content or permissions")
        return None

    # Reporting.

    def _report(self, where: Location, wrong: str, remedy: str) -> None:
        origin = self._origin(where)
        place = f" ({origin})" if origin else ""
        self._problems[where] = f"{'.'.join(where)}{place}: {wrong}; {remedy}"

    def _report_unknown_variable(self, where: Location, name: str) -> None:
        known = [PREFIX + key.replace(".", _NESTED).upper() for key, _ in fields()]
        self._problems[where] = f"{name} (environment): is unknown; {_suggestion(name.upper(), known)}"

    def _report_invalid(self, invalid: ValidationError) -> None:
        for error in invalid.errors(include_input=False, include_url=False, include_context=False):
            where = tuple(str(part) for part in error["loc"] if part != "[key]")
            if self._is_reported(where):
                continue
            field = _field_at(where)
            match error["type"]:
                case "missing" if field is not None and _is_secret(field):
                    self._report(
                        where, "is missing", f"give it, or {_twin(where[-1])} with a file that holds it"
                    )
                case "missing":
                    self._report(where, "is missing", "give it")
                case "string_pattern_mismatch":
                    self._report(where, "is no possible name", "use only a-z, 0-9, _ and -")
                case "too_short":
                    self._report(where, "is empty", "fill it, or leave it out")
                case "model_type" | "dict_type":
                    self._report(where, "should be a table", f"write its keys under [{'.'.join(where)}]")
                case _:
                    wrong = error["msg"].removeprefix("Value error, ").replace("Input should", "should")
                    meaning = (field.description if field else None) or ""
                    self._report(where, wrong, f'correct it ("{meaning.rstrip(".")}")')

    def _is_reported(self, where: Location) -> bool:
        prefixes = {where[:length] for length in range(1, len(where) + 1)}
        return bool(where) and not self._problems.keys().isdisjoint(
            {*prefixes, (*where[:-1], _twin(where[-1]))}
        )

    def _origin(self, where: Location) -> str:
        """Name the variable or file that gave a key, or the innermost table around it."""
        for length in range(len(where), 0, -1):
            inner = where[:length]
            forms = (inner, (*inner[:-1], _twin(inner[-1])))
            within = (name for place, name in self._variables.items() if place[:length] in forms)
            if name := next(within, None):
                return f"variable {name}"
            if any(_at(self._content, form) is not None for form in forms):
                return f"file {self._file}"
        return ""


# --- what the classes say about themselves ------------------------------------------------------


def fields() -> Iterator[tuple[str, FieldInfo]]:
    """Yield every key with its description, for documentation; ``*`` stands for a name of one's choice."""
    return _fields(Settings, "")


def _fields(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        kind = _kind(field.annotation)
        yield prefix + name, field
        if _is_section(kind):
            yield from _fields(kind, f"{prefix}{name}.")
        elif get_origin(kind) is dict:
            yield from _fields(get_args(kind)[1], f"{prefix}{name}.{_ANY_NAME}.")


def _field_at(where: Location) -> FieldInfo | None:
    kind: Any = Settings
    field: FieldInfo | None = None
    for part in where:
        if get_origin(kind) is dict:
            kind = get_args(kind)[1]
        elif _is_section(kind) and (field := kind.model_fields.get(part)):
            kind = _kind(field.annotation)
        else:
            return None
    return field


def _keys(section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        yield name
        if _is_secret(field):
            yield name + _FROM_FILE


def _is_secret(field: FieldInfo) -> bool:
    return _kind(field.annotation) is SecretStr


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _kind(annotation: Any) -> Any:
    """Strip ``| None`` and ``Annotated`` off an annotation."""
    if get_origin(annotation) is Annotated:
        return _kind(get_args(annotation)[0])
    members = get_args(annotation)
    if NoneType in members:
        return _kind(next(member for member in members if member is not NoneType))
    return annotation


def _at(tree: Any, where: Location) -> Any:
    for part in where:
        if not isinstance(tree, dict):
            return None
        tree = tree.get(part)
    return tree


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"


# --- showing ------------------------------------------------------------------------------------


def describe(settings: Settings) -> str:
    """Write the configuration in effect as TOML, defaults included and secrets hidden."""
    return "\n".join(_toml_table(settings, "")).strip() + "\n"


def _toml_table(section: Section, path: str) -> Iterator[str]:
    values = {name: getattr(section, name) for name in type(section).model_fields}
    for name, value in values.items():
        if value is None:
            yield f"# {name} is not set"
        elif not isinstance(value, Section | dict):
            yield f"{name} = {_toml_value(value)}"
    for name, value in values.items():
        if isinstance(value, Section):
            yield from _toml_header(value, f"{path}{name}")
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from _toml_header(item, f"{path}{name}.{key}")


def _toml_header(section: Section, path: str) -> Iterator[str]:
    yield f"\n[{path}]"
    yield from _toml_table(section, path + ".")


def _toml_value(value: object) -> str:
    match value:
        case SecretStr():
            return f'"{HIDDEN}"'
        case bool():
            return str(value).lower()
        case int() | float() | date():
            return str(value)
        case _:
            # A JSON string is a TOML string, but for DEL, which only TOML wants escaped.
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def example_text() -> str:
    """Return the commented example file, from an installed package as well as from a checkout."""
    packaged = resources.files("sync") / EXAMPLE
    if packaged.is_file():
        return packaged.read_text("utf-8")
    return (Path(__file__).parents[1] / "config" / EXAMPLE).read_text("utf-8")

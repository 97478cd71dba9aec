"""One typed settings object, and how every YAML file of ours is read.

Settings come from, in order of strength: arguments, the environment (`ROBUSTIDPS_*`), `HOME/settings.yaml`, defaults.
Everything that is made lies under one folder, `ROBUSTIDPS_HOME`:

    mlflow.db, artifacts/     MLflow's database and artefacts      captures/    simulated and ingested traffic
    state.db                  our state store and ledger           runs/        working files of flows
    keys/                     the installation's signing key       cache/       verified bundles, kept for rollback
    traffic/                  parts of data sets, as flows        logs/, locks/ what servers say; one at a time
    prefect/                  Prefect's database and results       reports/     pages and pictures
    updates/                  the remote registry's pinned root, what was trusted last, downloads in quarantine
    datasets/                 public data sets, as fetched        run/         what `robustidps up` runs, and where
    datasets/                 public data sets, as fetched
    traffic/kept/             held-out traffic that came with a restored backup, by digest
    incoming/                 traffic that `monitor` looks at
    configs/                  your own rule sets, family settings and data sets; they come before those that we ship
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import platformdirs
import yaml
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from robustidps.errors import ConfigError, NameInvalidError, StorageError, printable, without_passwords
from robustidps.plugins import ANY, LINE

__all__ = [
    "CONFIGS",
    "DASK",
    "SECRETS",
    "Settings",
    "check_name",
    "config_error",
    "config_file",
    "configure",
    "exists",
    "get_settings",
    "known_configs",
    "load_yaml",
    "make_settings",
    "parse_yaml",
    "part_of",
    "use_settings",
    "used",
    "with_changes",
    "writable",
    "write_whole",
]

CONFIGS = Path(__file__).parent / "configs"
DASK = r"^(off|local|(tcp|tls)://[^\s/@]+:[0-9]{1,5})$"
"""What the setting `dask` may be."""
SECRETS = ("notify_webhook_url", "notify_webhook_secret", "notify_smtp_password")
"""Settings that are secret as a whole: they are never shown, and don't travel to workers."""
_MAY_HOLD_SECRETS = (*SECRETS, "database_url", "mlflow_tracking_uri", "mlflow_database_url", "prefect_database_url")
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")
Model = TypeVar("Model", bound=BaseModel)


class Settings(BaseSettings):
    """Where things are and how they are reached. An unknown key is an error."""

    model_config = SettingsConfigDict(env_prefix="ROBUSTIDPS_", extra="forbid", frozen=True)

    home: Path = Field(
        default_factory=lambda: platformdirs.user_data_path("robustidps"),
        description="the folder that everything made lies under",
    )
    mlflow_tracking_uri: str | None = Field(
        default=None, repr=False, description="MLflow's address; default: SQLite in home"
    )
    database_url: str | None = Field(
        default=None, repr=False, description="the state store's SQLAlchemy URL; default: SQLite in home"
    )
    artifacts_uri: str | None = Field(
        default=None,
        description="where MLflow's artefacts go: s3://BUCKET/PREFIX, file:///FOLDER; default: artifacts/ in home, or "
        "what an MLflow server decides (docs/scaling.md)",
    )
    mlflow_database_url: str | None = Field(
        default=None, repr=False, description="the database of an MLflow server, for backup and restore"
    )
    prefect_database_url: str | None = Field(
        default=None, repr=False, description="Prefect's PostgreSQL; default: SQLite in home/prefect"
    )
    author: str = Field(default="unknown", max_length=200, description="recorded as the author of new versions")
    alerts_per_analyst: float = Field(
        default=48, gt=0, le=1e6, allow_inf_nan=False, description="alerts that one analyst can look at in a day"
    )
    plugins: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="plugins that may be imported, as NAME==VERSION:sha256-HEX; or `any` (docs/plugins.md)"
    )
    dask: str = Field(
        default="off",
        pattern=DASK,
        description="where train_all trains: threads of one process (off), processes of this machine (local), or a "
        "Dask scheduler's address, tcp://HOST:PORT or tls://HOST:PORT",
    )
    notify_webhook_url: SecretStr | None = Field(
        default=None, description="where decisions are POSTed to (docs/notifications.md); https, or on loopback"
    )
    notify_webhook_secret: SecretStr | None = Field(default=None, description="what they are signed with")
    notify_webhook_secret_file: Path | None = Field(default=None, description="the file it is in")
    notify_smtp_host: str | None = Field(default=None, description="the server that mail goes through")
    notify_smtp_port: int = Field(default=587, ge=1, le=65535)
    notify_smtp_starttls: bool = Field(default=True, description="off for a server on loopback alone")
    notify_smtp_user: str | None = Field(default=None, description="if the server wants one")
    notify_smtp_password: SecretStr | None = Field(default=None, description="of that user")
    notify_smtp_password_file: Path | None = Field(default=None, description="the file it is in")
    notify_mail_from: str | None = Field(default=None, description="the sender's address")
    notify_mail_to: Annotated[tuple[str, ...], NoDecode] = Field(default=(), description="the recipients' addresses")
    approval_by_prefect_form: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="the only people who hold the password of the Prefect server; answers in its form are theirs "
        "(docs/approval.md). Default: nobody; the form can't approve",
    )
    loihi_python: Path = Field(
        default=Path(__file__).resolve().parents[1] / "deployments" / "loihi" / ".venv" / "bin" / "python",
        description="the Python that simulates Loihi (docs/neuromorphic.md); default: the one that `make loihi` makes",
    )
    reports_url: str = Field(
        default="http://127.0.0.1:4300",
        pattern=r"^https?://[^\s/@]+$",
        description="where `robustidps reports serve` is reached; links in MLflow and Prefect lead there",
    )
    ports: dict[str, Annotated[int, Field(ge=1, le=65535)]] = Field(
        default_factory=dict,
        description="ports of `robustidps up` by service; default: its usual or any free one",
    )
    watch_every: float = Field(
        default=10.0, ge=0.2, le=3600, description="seconds between two looks of `robustidps watch` at MLflow"
    )
    watch_port: int = Field(default=5020, ge=1, le=65535, description="where `robustidps watch` listens on loopback")
    remote_registry_url: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="where signed updates come from (docs/updates.md): one address, or several mirrors"
    )
    enable_auto_update: bool = Field(
        default=False, description="whether `auto_update` takes updates by itself; off: it only says which there are"
    )
    updates_without_labels: Literal["hold", "activate"] = Field(
        default="hold",
        description="an update that could be judged on traffic without labels alone: waits in Staging, or goes on",
    )
    updates_rules: dict[str, str] = Field(
        default_factory=dict, description="rule set for updates by model; default: auto_update (docs/updates.md)"
    )
    updates_max_mib_per_second: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="how fast updates are downloaded at most"
    )
    debug: bool = Field(default=False, description="show tracebacks")

    @field_validator("home")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return _home(value)

    @field_validator("artifacts_uri")
    @classmethod
    def _artifacts(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(
            r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w./-]*)?|file:///\S*", value
        ):
            raise ValueError("must be s3://BUCKET/PREFIX or file:///FOLDER; credentials come from the environment")
        return value.rstrip("/") if value else value

    @field_validator("prefect_database_url")
    @classmethod
    def _prefect_database(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"postgres(ql)?(\+asyncpg)?://", value):
            raise ValueError("must be postgresql://USER:PASSWORD@HOST/DATABASE")
        return value

    @field_validator("remote_registry_url")
    @classmethod
    def _mirrors(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url):
                raise ValueError(f"{without_passwords(url)!r} is no http(s) address without a password in it")
        return value

    @field_validator("plugins", "approval_by_prefect_form", "notify_mail_to", "remote_registry_url", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        """The environment has one string, with blanks or commas between lines; a file may have one or a list."""
        return tuple(re.split(r"[\s,]+", value.strip())) if isinstance(value, str) and value.strip() else value or ()

    @field_validator("plugins")
    @classmethod
    def _plugin_lines(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for entry in value:
            if entry != ANY and not LINE.fullmatch(entry):
                raise ValueError(f"{printable(entry, 80)!r} is neither NAME==VERSION:sha256-HEX nor `{ANY}`")
        return value

    @property
    def tracking_uri(self) -> str:
        """MLflow's address, with the driver that the extra `postgresql` brings."""
        uri = self.mlflow_tracking_uri or f"sqlite:///{self.home / 'mlflow.db'}"
        return _with_driver(uri, "psycopg")

    @property
    def tracking_is_embedded(self) -> bool:
        """Whether MLflow runs in this process, on its database, and not as a server elsewhere."""
        return not self.tracking_uri.startswith(("http:", "https:"))

    @property
    def prefect_url(self) -> str | None:
        """Prefect's database, for its driver, which says `ssl` where all others say `sslmode`."""
        if self.prefect_database_url is None:
            return None
        return re.sub(r"([?&])sslmode=", r"\1ssl=", _with_driver(self.prefect_database_url, "asyncpg"))

    @property
    def state_url(self) -> str:
        return self.database_url or f"sqlite:///{self.home / 'state.db'}"

    def folder(self, *parts: str) -> Path:
        """A folder under home, made if missing.

        Raises:
            StorageError: home can't be written to.
        """
        path = self.home.joinpath(*parts)
        with writable(path):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        home = init_settings().get("home") or env_settings().get("home") or platformdirs.user_data_path("robustidps")
        file = _home(Path(home)) / "settings.yaml"
        content = _read_yaml(file) if exists(file) else {}
        if (secret := next((key for key in SECRETS if key in content), None)) and file.stat().st_mode & 0o077:
            raise ConfigError(
                f"holds '{secret}' and can be read by others", where=file, remedy="change the secret, then chmod 600"
            )
        return init_settings, env_settings, InitSettingsSource(settings_cls, init_kwargs=content)


def _with_driver(url: str, driver: str) -> str:
    return re.sub(r"^(postgres|postgresql)://", f"postgresql+{driver}://", url)


def _home(path: Path) -> Path:
    try:
        path = path.expanduser().absolute()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigError(
            f"can't be the home folder: {reason}", where=path, remedy="name another with --home"
        ) from None
    return path


_current: Settings | None = None


def get_settings() -> Settings:
    """The settings in force; read once per process.

    Raises:
        ConfigError: an unknown key or a value that doesn't fit, named with its file or variable.
    """
    global _current
    if _current is None:
        _current = make_settings()
    return _current


def config_file(kind: str, name: str) -> Path:
    """`KIND/NAME.yaml` in HOME/configs if it is there, else in the configurations that we ship; may not exist.

    Raises:
        NameInvalidError: a name that could climb out of the folder.
    """
    own = get_settings().home / "configs" / kind / f"{check_name(name, 'configuration name')}.yaml"
    return own if own.is_file() else CONFIGS / kind / own.name


def known_configs(kind: str) -> list[str]:
    """Names of the configurations of a kind, the installation's own and those that we ship."""
    folders = (get_settings().home / "configs" / kind, CONFIGS / kind)
    return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})


def configure(**overrides: Any) -> Settings:
    """Puts settings with `overrides` in force for this process, and gives them. Raises ConfigError."""
    global _current
    _current = make_settings(**overrides)
    return _current


def make_settings(**overrides: Any) -> Settings:
    """Settings with `overrides` on top of environment and file. Raises ConfigError."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise config_error(error, "settings (ROBUSTIDPS_* or HOME/settings.yaml)", Settings) from None


def with_changes(settings: Settings, changes: dict[str, Any]) -> Settings:
    """`settings` with some of them changed, and nothing read anew. Raises ConfigError."""
    if not changes:
        return settings
    try:
        checked = Settings.model_validate(settings.model_dump() | changes)
    except ValidationError as error:
        raise config_error(error, ", ".join(changes), Settings) from None
    return settings.model_copy(update={key: getattr(checked, key) for key in changes})


@contextmanager
def use_settings(settings: Settings) -> Iterator[Settings]:
    """Puts `settings` in force for a block."""
    global _current
    before, _current = _current, settings
    try:
        yield settings
    finally:
        _current = before


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe, and a key that is given twice is an error rather than a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key!r} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(path: Path, model: type[Model]) -> Model:
    """Reads a YAML file into a typed, closed model.

    Raises:
        ConfigError: not there, not YAML, an unknown key, a value out of range; names file and key.
    """
    content = _read_yaml(path)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise config_error(error, path, model) from None


def parse_yaml(text: str, where: object) -> Any:
    """Plain values from YAML text; `where` is named in the error.

    Raises:
        ConfigError: not YAML, a tag that makes objects, a key given twice, a value that is none (`2026-99-99`).
    """
    try:
        return yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 - a subclass of SafeLoader
    except RecursionError:
        raise ConfigError("not readable as plain YAML: nested too deeply", where=where) from None
    # PyYAML lets out whatever its constructors stumble on: `!!bool x` is a KeyError, `!!timestamp x` an AttributeError.
    except yaml.MarkedYAMLError as error:  # its own text repeats the line, which may hold a password
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        problem = printable(f"{error.problem or error.context}{place}", 300)
        raise ConfigError(f"not readable as plain YAML: {problem}", where=where) from None
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ConfigError(f"not readable as plain YAML: {' '.join(str(error).split())}", where=where) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        known = sorted(p.stem for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise ConfigError("no such file", where=path, remedy=f"known here: {', '.join(known) or 'none'}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't be read: {error}", where=path) from None
    if not isinstance(content, dict):
        raise ConfigError("must be a mapping of keys to values", where=path)
    return {str(key): value for key, value in content.items()}


def config_error(error: ValidationError, where: object, model: type[BaseModel] | None = None) -> ConfigError:
    """The first few problems of a pydantic error in one sentence each, as a ConfigError."""
    parts = []
    for item in error.errors()[:4]:
        key = ".".join(str(k) for k in item["loc"]) or "(the whole)"
        if item["type"] == "extra_forbidden":
            parts.append(f"unknown key '{printable(key)}'")
        elif (
            not item["loc"] and item["type"] == "value_error"
        ):  # keys that don't fit each other; the message names them
            parts.append(item["msg"].removeprefix("Value error, "))
        elif key in _MAY_HOLD_SECRETS:
            parts.append(f"'{key}': {item['msg']}")  # the value is not repeated
        else:
            shown = printable(without_passwords(repr(item.get("input"))), 60)
            parts.append(f"'{printable(key)}' = {shown}: {item['msg']}")
    known = f"known keys: {', '.join(model.model_fields)}" if model and "unknown key" in parts[0] else None
    return ConfigError("; ".join(parts), where=where, remedy=known)


def check_name(name: str, what: str = "model name") -> str:
    """`name` if it is a lower-case identifier that is safe as a file name, in a URL and on a terminal.

    Raises:
        NameInvalidError: otherwise.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise NameInvalidError(
            f"{printable(repr(name), 80)} is not a {what}",
            remedy="use 1 to 63 of a-z, 0-9, _ and -, beginning with a letter",
        )
    return name


def exists(path: Path) -> bool:
    """Whether there is something at `path`; a name that the system finds too long has nothing."""
    try:
        return path.exists()
    except OSError:
        return False


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals to write into one clear error.

    Raises:
        StorageError: the disk is full, the folder read-only or not ours, the path none that can be written.
    """
    try:
        yield
    except OSError as error:
        reasons = {
            28: "the disk is full",
            30: "the file system is read-only",
            13: "permission denied",
            1: "not permitted",
            122: "the disk quota is used up",
            27: "the file size limit is reached",
            21: "it is a folder",
            20: "part of the path is not a folder",
            17: "a file is in the way",
            36: "the name is too long",
            40: "its links go round in circles",
            5: "the device failed",
        }
        if error.errno not in reasons:
            raise
        raise StorageError(
            f"can't be written: {reasons[error.errno]}",
            where=error.filename or path,
            remedy="free space or choose another folder (ROBUSTIDPS_HOME)",
        ) from None


def used(path: Path) -> Path:
    """Notes that what lies at `path` was used now, so that `retention` lets it lie; gives `path`."""
    with suppress(OSError):  # read-only, or gone: whoever reads it next will say so
        os.utime(path)
    return path


def part_of(path: Path) -> Path:
    """A name beside `path` to write under until all is there; another one each time, as others may write it too."""
    return path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.part")


def write_whole(path: Path, content: str | bytes) -> Path:
    """Writes a file under `path`, all of it or nothing, and makes its folder. Raises StorageError."""
    part = part_of(path)
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            part.write_bytes(content.encode() if isinstance(content, str) else content)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    return path

"""Settings: the environment first, then the YAML file named by `MOZAIKS_CONFIG`. The only reader of either.

A wrong or unknown setting stops the start with one sentence that names it. In the file the same
settings stand in lower case without the prefix (`port: 8080`), beside `models` and
`platform_markup_percent`; `${NAME}` in any of its strings is replaced from the environment.
"""

import os
import re
import secrets
from collections.abc import Callable
from decimal import Decimal
from difflib import get_close_matches
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec

from gateway.config import file
from gateway.config.models import ModelConfig, default_models, read_model
from gateway.core import limits as bounds

PREFIX: Final = "MOZAIKS_"
NAMES: Final = {
    "host": "address to listen on; default 127.0.0.1",
    "port": "port to listen on; default 8080",
    "workers": "web processes; default 1",
    "data_dir": "where the embedded stores and generated secrets live; default ./data",
    "database_url": "SQLAlchemy URL of the platform's database; empty: SQLite under the data directory",
    "app_database_url": "URL template of each app's database, with {enterprise_id}; empty: SQLite under the data directory",
    "redis_url": "Redis-protocol server; empty: the gateway starts its own under the data directory",
    "operator_token": "bearer token of the management API; empty: generated and kept under the data directory",
    "key_pepper": "secret under which keys are hashed and end-user tokens signed; empty: generated, as above",
    "public_url": "the URL clients reach the gateway at; default http://host:port",
    "stripe_secret_key": "Stripe's secret or restricted key; empty: nothing is sold, and the routes of billing are not there",
    "stripe_webhook_secret": "signing secret of the webhook endpoint for the platform's own account; empty: it takes none",
    "stripe_connect_webhook_secret": "signing secret of the webhook endpoint for connected accounts; empty: it takes none",
    "webhooks_kept_days": "days for which webhooks of Stripe are kept that were handled; default 90; those that failed stay",
    "stripe_api_base": "address of Stripe's API; empty: Stripe's own",
    "grace_days": "days for which what is left of a subscription's allowance outlives a period that was not renewed; default 3",
    "mode": "hosted",
    "demo": "true: a demo model, app, key and funded end user; default: true without a config file and database URL",
    "inline_worker": "true: one web process also drains usage into the books; default true",
    "hold_ttl_s": "seconds after which what a dead gateway held is settled or given back; 5 to 3600, default 60",
    "event_backlog_max": "usage events of one shard that may wait for the worker before requests are refused; default 1000000",
    "answer_cache_bytes_max": "bytes of Redis that kept answers may take, of all apps together; default 67108864",
    "metrics_token": "bearer token with which /metrics may be read, beside the operator's",
    "log_level": "debug, info, warning or error; default info",
}
# Without these nobody knows where the books are, and who may do what with them.
_OF_BOOKS: Final = ("data_dir", "database_url", "app_database_url", "redis_url", "operator_token", "key_pepper", "mode")
_STORES: Final = (*_OF_BOOKS, "public_url")  # with which the links begin that a command signs
_MODELS: Final = "models"
_MARKUP: Final = "platform_markup_percent"
_FILE: Final = "the whole file"
_OF_STRIPE: Final = tuple(name for name in NAMES if name.startswith("stripe_"))
TAKEN_WHILE_IT_RUNS: Final = frozenset((_MODELS, "platform_markup_bp"))
_TOKEN_CHARS_MIN: Final = 24
_WEBHOOKS_KEPT_DAYS: Final = 90  # Stripe repeats one for three days
_ANSWER_CACHE_BYTES: Final = 64 * 1024 * 1024
_BACKLOG_MAX: Final = bounds.EVENT_BACKLOG_MAX
_SUBSTITUTE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_T = TypeVar("_T")


class SettingsError(Exception):
    """One sentence that names what is wrong, and the file where it stands in one. `about` is the setting's name there."""

    def __init__(self, says: str, about: str = "") -> None:
        super().__init__(says)
        self.about = about


class Part(StrEnum):
    """How much of the file somebody needs. What is wrong in the rest is in `Settings.faults`, and as if it were not there."""

    ALL = "all"
    STORES = "stores"  # where they are, and the secrets
    ANY = "any"  # what can be read of it


class Makes(Enum):
    """Where a command may make a data directory that is not there."""

    NOWHERE = "nowhere"  # it reads
    WHERE_NAMED = "where named"  # by a setting: it may be the first thing that is done there
    ANYWHERE = "anywhere"  # it serves, or makes an installation


class Settings(msgspec.Struct, frozen=True):
    """Everything the gateway is told from outside. `database_url` and `redis_url` may be empty: embedded."""

    host: str
    port: int
    workers: int
    data_dir: Path
    database_url: str
    app_database_url: str
    redis_url: str
    operator_token: str
    key_pepper: str
    public_url: str
    demo: bool
    inline_worker: bool
    grace_days: int
    hold_ttl_s: int
    event_backlog_max: int
    answer_cache_bytes_max: int
    log_level: str
    metrics_token: str
    stripe_secret_key: str
    stripe_webhook_secret: str
    stripe_connect_webhook_secret: str
    stripe_api_base: str
    webhooks_kept_days: int
    config: Path | None  # the file, where there is one
    models: tuple[ModelConfig, ...]
    platform_markup_bp: int
    faults: tuple[str, ...] = ()  # what is wrong with the file, a sentence each, for who did not need all of it
    stripe_fault: str = ""  # the one of them for which there is no Stripe here: its key goes to no other address than was meant


def load(
    environment: dict[str, str] | None = None, *, makes: Makes = Makes.ANYWHERE, needs: Part = Part.ALL
) -> Settings:
    """Settings from the environment (of this process unless given) and the file it names; SettingsError."""
    env = dict(os.environ) if environment is None else environment  # noqa: TID251 - this is the one home
    known = {PREFIX + name.upper() for name in NAMES} | {PREFIX + "CONFIG"}
    for name in sorted(env):
        if name.startswith(PREFIX) and name not in known:
            raise SettingsError(f"{name} is not a setting of this gateway.")
    path = env.get(PREFIX + "CONFIG", "")
    faults = _Faults(path, needs)
    file = _read_file(Path(path), faults) if path else {}
    in_file = {name: faults.but("", _scalar, name, file.pop(name, None), env) for name in NAMES}
    given = {name: env.get(PREFIX + name.upper(), "") or in_file[name] for name in NAMES}
    models = _models(file.pop(_MODELS, []), env, faults) if path else default_models(env)
    markup_bp = faults.but(0, _percent, _MARKUP, file.pop(_MARKUP, "0"))
    for name in sorted(file):
        meant = get_close_matches(name.lower().removeprefix(PREFIX.lower()), _STORES + _OF_STRIPE, 1)
        faults.add(SettingsError(f"{name} is not a setting of this gateway.", meant[0] if meant else name))
    is_placed = given["data_dir"] or given["database_url"]
    if path and faults.told and not file and not (is_placed or Path("data/secrets.json").exists()):
        raise SettingsError(f"{faults.told[0]} They do not say where the stores are.", _FILE)
    if makes != Makes.ANYWHERE and not given["database_url"]:
        _check_there(str(given["data_dir"]), makes)
    while True:
        try:
            found = _build(given, models, markup_bp, Path(path).absolute() if path else None, faults)
            return msgspec.structs.replace(found, **dict.fromkeys(_OF_STRIPE, "")) if faults.of_stripe else found
        except SettingsError as wrong:
            if in_file.get(wrong.about, "") and not env.get(PREFIX + wrong.about.upper(), ""):
                faults.add(wrong)
            elif needs != Part.ALL and wrong.about in _OF_STRIPE:
                faults.keep(str(wrong), wrong.about)  # the environment's; nothing but what is sold goes without
            else:
                raise
            given |= dict.fromkeys(_OF_STRIPE if wrong.about in _OF_STRIPE else (wrong.about,), "")


def _check_there(data_dir: str, makes: Makes) -> None:
    """Who makes no installation finds one: else it would look at an empty one of its own."""
    if Path(data_dir or "data").exists() or (data_dir and makes == Makes.WHERE_NAMED):
        return
    if data_dir:
        where = Path(data_dir).absolute()
        raise _wrong("data_dir", f"is {where}, where no gateway's data is: set another, or run `gateway serve` with it first.")
    raise SettingsError(
        f"There is no gateway's data in {Path.cwd()}: go where it was started, or set {PREFIX}DATA_DIR or {PREFIX}CONFIG."
    )


class _Faults:
    """What is wrong with the file: the first thing ends the reading, but for who can do without it."""

    def __init__(self, path: str, needs: Part) -> None:
        self.told: list[str] = []
        self.of_stripe = ""  # the first one that leaves it open where Stripe's key was meant to go
        self._path = path
        self._needs = needs

    def add(self, wrong: SettingsError) -> None:
        """Keep it, or raise it, with the file's name."""
        said = str(wrong) if self._path in str(wrong) else f"{self._path}: {wrong}"
        needed = wrong.about in _STORES or (wrong.about == _FILE and self._needs != Part.ANY)
        if self._needs == Part.ALL or needed:
            raise SettingsError(said, wrong.about) from wrong
        rest = " What is looked at is what the environment and the defaults say." if wrong.about == _FILE else ""
        self.keep(said + rest, wrong.about)

    def keep(self, said: str, about: str) -> None:
        """Go on without it."""
        self.told.append(said)
        if about in _OF_STRIPE or about == _FILE:
            self.of_stripe = self.of_stripe or said

    def but(self, instead: _T, read: Callable[..., _T], *given: Any) -> _T:
        """What `read` makes of what is given, or something `instead`."""
        try:
            return read(*given)
        except SettingsError as wrong:
            self.add(wrong)
            return instead


def translation_environment() -> None:
    """What litellm reads from this process's environment when it is imported: stay off the network, and out of `.env`.

    Image downloads are off too: an address in a message would make the gateway fetch it from inside the network.
    """
    switches = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
        "LITELLM_MODE": "PRODUCTION",
        "LITELLM_LOG": "CRITICAL",
        "LITELLM_RUST": "False",
        "MAX_IMAGE_URL_DOWNLOAD_SIZE_MB": "0",
    }
    os.environ.update(switches)  # noqa: TID251 - this is the one home


def _build(
    given: dict[str, Any], models: tuple[ModelConfig, ...], markup_bp: int, config: Path | None, faults: _Faults
) -> Settings:
    embedded = not given["database_url"]
    data_dir = Path(given["data_dir"] or "data").absolute()
    if str(given["mode"] or "hosted") != "hosted":
        raise _wrong("mode", "must be hosted.")
    app_url = str(given["app_database_url"])
    if bool(app_url) == embedded:
        raise _wrong("database_url", f"and {PREFIX}APP_DATABASE_URL are set together or not at all.")
    if app_url and "{enterprise_id}" not in app_url:
        raise _wrong("app_database_url", "must contain {enterprise_id}: each app has a database of its own.")
    for name in ("database_url", "app_database_url"):
        scheme = str(given[name]).partition(":")[0]
        if given[name] and scheme not in ("sqlite+aiosqlite", "postgresql+asyncpg"):
            raise _wrong(name, "must start with sqlite+aiosqlite: or postgresql+asyncpg:.")
    if given["redis_url"] and urlsplit(str(given["redis_url"])).scheme not in ("redis", "rediss", "unix"):
        raise _wrong("redis_url", "must start with redis://, rediss:// or unix://.")
    public_url = str(given["public_url"]).strip()
    if public_url and not _is_address(public_url):
        raise _wrong("public_url", "must be an http or https URL with a host, such as https://gateway.example.")
    host = str(given["host"] or "127.0.0.1")
    port = _whole("port", given["port"] or 8080, 0, 65535)
    shown_host = "127.0.0.1" if host in ("0.0.0.0", "::") else host  # noqa: S104 - compared, not bound
    hold_ttl_s = _whole("hold_ttl_s", given["hold_ttl_s"] or bounds.HOLD_TTL_S, 5, 3600)
    log_level = str(given["log_level"] or "info").lower()
    if log_level not in ("debug", "info", "warning", "error"):
        raise _wrong("log_level", "must be debug, info, warning or error.")
    operator_token, key_pepper = str(given["operator_token"]), str(given["key_pepper"])
    metrics_token = str(given["metrics_token"])
    for name, secret in (("operator_token", operator_token), ("key_pepper", key_pepper), ("metrics_token", metrics_token)):
        if not secret and not embedded and name != "metrics_token":
            raise _wrong(name, f"must be set when {PREFIX}DATABASE_URL is.")
        if secret and len(secret) < _TOKEN_CHARS_MIN:
            raise _wrong(name, f"must have at least {_TOKEN_CHARS_MIN} characters.")
    if not (operator_token and key_pepper):
        kept = kept_secrets(data_dir)
        operator_token, key_pepper = operator_token or kept["operator_token"], key_pepper or kept["key_pepper"]
    return Settings(
        host=host,
        port=port,
        workers=_whole("workers", given["workers"] or 1, 1, 256),
        data_dir=data_dir,
        database_url=str(given["database_url"]) or f"sqlite+aiosqlite:///{data_dir}/platform.sqlite",
        app_database_url=app_url or f"sqlite+aiosqlite:///{data_dir}/apps/{{enterprise_id}}.sqlite",
        redis_url=str(given["redis_url"]),
        operator_token=operator_token,
        key_pepper=key_pepper,
        public_url=(public_url or f"http://{shown_host}:{port}").rstrip("/"),
        demo=_flag("demo", given["demo"], embedded and config is None),
        inline_worker=_flag("inline_worker", given["inline_worker"], True),
        grace_days=_whole("grace_days", given["grace_days"] or 3, 1, 30),
        hold_ttl_s=hold_ttl_s,
        event_backlog_max=_whole("event_backlog_max", given["event_backlog_max"] or _BACKLOG_MAX, 1, _BACKLOG_MAX),
        answer_cache_bytes_max=_whole("answer_cache_bytes_max", given["answer_cache_bytes_max"] or _ANSWER_CACHE_BYTES, 0, 2**40),
        log_level=log_level,
        metrics_token=metrics_token,
        **_stripe(given),
        webhooks_kept_days=_whole("webhooks_kept_days", given["webhooks_kept_days"] or _WEBHOOKS_KEPT_DAYS, 7, 3650),
        config=config,
        models=models,
        platform_markup_bp=markup_bp,
        faults=tuple(faults.told),
        stripe_fault=faults.of_stripe,
    )


def _stripe(given: dict[str, Any]) -> dict[str, str]:
    """What billing needs to be told."""
    found = {name: str(given[name]) for name in _OF_STRIPE}
    key = found["stripe_secret_key"]
    if key and not key.startswith(("sk_", "rk_")):
        is_ = "is a publishable key, with which nothing can be sold: it " if key.startswith("pk_") else ""
        raise _wrong("stripe_secret_key", f"{is_}must be a secret or restricted key of Stripe: sk_... or rk_....")
    for name, value in found.items():
        if value and not key:
            raise _wrong(name, f"is of no use without {PREFIX}STRIPE_SECRET_KEY.")
    for name in ("stripe_webhook_secret", "stripe_connect_webhook_secret"):
        if found[name] and not found[name].startswith("whsec_"):
            raise _wrong(name, "must be the signing secret of a webhook endpoint at Stripe: whsec_....")
    base = found["stripe_api_base"]
    if base and not _is_address(base):
        raise _wrong("stripe_api_base", "must be an http or https URL.")
    return found | {"stripe_api_base": base.rstrip("/")}


def _is_address(url: str) -> bool:
    try:
        found = urlsplit(url)
        return found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0 and not re.search(r"\s", url)
    except ValueError:
        return False


def _wrong(name: str, says: str) -> SettingsError:
    return SettingsError(f"{PREFIX}{name.upper()} {says}", name)


def kept_secrets(data_dir: Path) -> dict[str, str]:
    """Secrets of the embedded default, made once and kept in `secrets.json` (mode 0600)."""
    path = data_dir / "secrets.json"
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = {"operator_token": f"mzo_{secrets.token_urlsafe(32)}", "key_pepper": secrets.token_urlsafe(48)}
    scratch = data_dir / f"secrets.{os.getpid()}.tmp"
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(fresh))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(scratch, path)  # of several processes starting at once, exactly one makes the file
    except FileExistsError:
        pass
    finally:
        scratch.unlink()
    return msgspec.json.decode(path.read_bytes(), type=dict[str, str])


def _read_file(path: Path, faults: _Faults) -> dict[str, Any]:
    """As it is written: `${NAME}` is replaced where each of its parts is read."""
    try:
        return file.read(path)
    except ValueError as wrong:
        faults.add(SettingsError(f"{PREFIX}CONFIG: {path} {wrong}{'' if str(wrong).endswith(('?', ')')) else '.'}", _FILE))
        return {}


def _scalar(name: str, value: Any, env: dict[str, str]) -> Any:
    if isinstance(value, dict | list):
        raise SettingsError(f"{name} must be a single value.", name)
    return "" if value is None else _substituted(value, name, env, name)


def _substituted(value: Any, where: str, env: dict[str, str], about: str) -> Any:
    if isinstance(value, str):

        def replace(found: re.Match[str]) -> str:
            name = found.group(1)
            if name not in env:
                raise SettingsError(f"{where} refers to ${{{name}}}, which is not set.", about)
            return env[name]

        return _SUBSTITUTE.sub(replace, value)
    if isinstance(value, list):
        return [_substituted(item, f"{where}[{index}]", env, about) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {name: _substituted(item, f"{where}.{name}", env, about) for name, item in value.items()}
    return value


def _models(given: Any, env: dict[str, str], faults: _Faults) -> tuple[ModelConfig, ...]:
    """Those of the file; where it is broken those of them that are well, else those of the environment."""
    models: dict[str, ModelConfig] = {}
    before = len(faults.told)
    if not isinstance(given, list | None):
        faults.add(SettingsError("models must be a list.", _MODELS))
        given = None
    for index, each in enumerate(given or ()):
        model = faults.but(None, _model, index, each, env)
        if model is not None and model.name in models:
            faults.add(SettingsError(f"models: {model.name!r} is there twice.", _MODELS))
        elif model is not None:
            models[model.name] = model
    return tuple(models.values()) if models or not before else default_models(env)


def _model(index: int, written: Any, env: dict[str, str]) -> ModelConfig:
    written = _substituted(written, f"models[{index}]", env, _MODELS)
    name = written.get("name") if isinstance(written, dict) else None
    try:
        return read_model(written, f"models: {name!r}" if isinstance(name, str) else f"models[{index}]")
    except ValueError as wrong:
        raise SettingsError(str(wrong), _MODELS) from wrong


def _whole(name: str, value: Any, least: int, most: int) -> int:
    text = str(value).strip()
    if not text.isdigit() or not least <= int(text) <= most:
        raise _wrong(name, f"must be a whole number from {least} to {most}, not {text!r}.")
    return int(text)


def _flag(name: str, value: Any, default: bool) -> bool:
    text = str(value).strip().lower()
    if text not in ("", "1", "0", "true", "false"):
        raise _wrong(name, f"must be true or false, not {text!r}.")
    return default if not text else text in ("1", "true")


def _percent(name: str, value: Any) -> int:
    try:
        points = Decimal(str(value)) * 100
    except ArithmeticError:
        points = Decimal(-1)
    if not points.is_finite() or points != points.to_integral_value() or not 0 <= points <= 1_000_000:
        raise SettingsError(f"{name} must be a percentage from 0 to 10000 with at most two decimals, not {value!r}.", name)
    return int(points)

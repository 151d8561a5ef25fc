"""Settings: the environment first, then the YAML file named by `MOZAIKS_CONFIG`. The only reader of either.

A wrong or unknown setting stops the start with one sentence that names it. In the file the same
settings stand in lower case without the prefix (`port: 8080`), beside `models` and
`platform_markup_percent`; `${NAME}` in any of its strings is replaced from the environment.
"""

import os
import re
import secrets
from collections.abc import Callable, Sequence
from decimal import Decimal
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import msgspec
import yaml

from gateway.core import limits as bounds
from gateway.providers.azure import is_azure_itself
from gateway.providers.model import COUNT_TOKENS, MESSAGES, RESPONSES, UNTRANSLATED, Strategy
from gateway.providers.translation import RESERVED, TRANSLATED

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
_STORES: Final = ("data_dir", "database_url", "app_database_url", "redis_url", "operator_token", "key_pepper", "mode")
_MODELS: Final = "models"
_MARKUP: Final = "platform_markup_percent"
_FILE: Final = "the whole file"
TAKEN_WHILE_IT_RUNS: Final = frozenset((_MODELS, "platform_markup_bp"))
_TOKEN_CHARS_MIN: Final = 24
_RETRIES_MAX: Final = 5
_WEBHOOKS_KEPT_DAYS: Final = 90  # Stripe repeats one for three days
_ANSWER_CACHE_BYTES: Final = 64 * 1024 * 1024
_BACKLOG_MAX: Final = bounds.EVENT_BACKLOG_MAX
_PARAM: Final = re.compile(r"[a-z][a-z0-9_]{0,63}")
_VERSION: Final = re.compile(r"\d{4}-\d{2}-\d{2}(-preview)?|preview|latest|v1")
_SUBSTITUTE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_T = TypeVar("_T")
_ToolCalls = Annotated[int, msgspec.Meta(ge=1, le=bounds.TOOL_CALLS_MAX)]


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


DIALECTS: Final = {"messages": (MESSAGES, COUNT_TOKENS), "responses": (RESPONSES,), **UNTRANSLATED}


class LimitsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How much a deployment is asked for at most, by all processes together; what is left out has no limit."""

    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


class DeploymentConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place that serves a model. `prices`: see `ModelConfig`; a deployment's own come first."""

    provider: str = "openai"
    model: str | None = None
    api_base: str = ""
    api_key: str = ""
    api_version: str = ""  # of Azure OpenAI over the byte path
    weight: int = 1
    headers: dict[str, str] = {}
    output_cap_field: str | None = None
    cached_tokens: str = "inside"  # whether the provider counts them inside or beside the prompt
    input_tokens_max: int | None = None
    output_tokens_max: int | None = None
    first_byte_timeout_s: float = bounds.FIRST_BYTE_TIMEOUT_S
    chunk_timeout_s: float = bounds.CHUNK_TIMEOUT_S
    hidden_reasoning: bool | None = None  # whether it makes tokens that are paid for and not shown; None: as listed
    prices: dict[str, Any] | None = None
    params: dict[str, str | int | float | bool] = {}  # what a translated provider needs besides, such as aws_region_name
    speaks: list[str] | None = None  # the surfaces of `DIALECTS` that it serves itself; default: as the provider is known to
    limits: LimitsConfig = LimitsConfig()
    own_keys: bool | None = None  # whether apps may bring a key for it; None: where it has an api_key
    tool_calls: _ToolCalls = bounds.TOOL_CALLS  # of tools that it runs itself, where a request does not say
    tool_call_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None  # each of their calls is held as; None: all it can read
    vector_stores: list[str] = []  # ids of those under its account that every app may search


class ModelConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A model that clients may ask for; `*` in the name matches anything.

    `prices` are what the provider takes, in USD per million units, as decimal strings by kind, and of long prompts and variants
    (such as service tiers) where they differ: `pricing.written` reads them; default: the price list. `charge` is what the
    platform takes from creators; default: the provider's price and the platform's markup. The rest is as
    `providers.model.ModelEntry` has it.
    """

    name: str
    deployments: list[DeploymentConfig]
    strategy: Strategy = Strategy.WEIGHT
    fallbacks: list[str] = []
    retries: int = 0
    prices: dict[str, Any] | None = None
    charge: dict[str, Any] | None = None


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


def load(environment: dict[str, str] | None = None, *, make_data: bool = True, needs: Part = Part.ALL) -> Settings:
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
    models = _models(file.pop(_MODELS, []), env, faults) if path else _default_models(env)
    markup_bp = faults.but(0, _percent, _MARKUP, file.pop(_MARKUP, "0"))
    for name in sorted(file):
        meant = get_close_matches(name.lower().removeprefix(PREFIX.lower()), _STORES, 1)
        faults.add(SettingsError(f"{name} is not a setting of this gateway.", meant[0] if meant else name))
    is_placed = given["data_dir"] or given["database_url"]
    if path and faults.told and not file and not (is_placed or Path("data/secrets.json").exists()):
        raise SettingsError(f"{faults.told[0]} They do not say where the stores are.", _FILE)
    if not (make_data or is_placed or Path("data").exists()):
        raise SettingsError(
            f"There is no gateway's data in {Path.cwd()}: go where it was started, or set {PREFIX}DATA_DIR or {PREFIX}CONFIG."
        )
    while True:
        try:
            return _build(given, models, markup_bp, Path(path).absolute() if path else None, faults.told)
        except SettingsError as wrong:
            if in_file.get(wrong.about, "") == "" or env.get(PREFIX + wrong.about.upper(), ""):
                raise  # the environment's
            faults.add(wrong)
            given[wrong.about] = ""


class _Faults:
    """What is wrong with the file: the first thing ends the reading, but for who can do without it."""

    def __init__(self, path: str, needs: Part) -> None:
        self.told: list[str] = []
        self._path = path
        self._needs = needs

    def add(self, wrong: SettingsError) -> None:
        """Keep it, or raise it, with the file's name."""
        said = str(wrong) if self._path in str(wrong) else f"{self._path}: {wrong}"
        needed = wrong.about in _STORES or (wrong.about == _FILE and self._needs != Part.ANY)
        if self._needs == Part.ALL or needed:
            raise SettingsError(said, wrong.about) from wrong
        rest = " What is looked at is what the environment and the defaults say." if wrong.about == _FILE else ""
        self.told.append(said + rest)

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
    given: dict[str, Any], models: tuple[ModelConfig, ...], markup_bp: int, config: Path | None, faults: Sequence[str]
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
        public_url=str(given["public_url"] or f"http://{shown_host}:{port}").rstrip("/"),
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
        faults=tuple(faults),
    )


def _stripe(given: dict[str, Any]) -> dict[str, str]:
    """What billing needs to be told."""
    found = {name: str(given[name]) for name in NAMES if name.startswith("stripe_")}
    key = found["stripe_secret_key"]
    if key and not key.startswith(("sk_", "rk_")):
        raise _wrong("stripe_secret_key", "must be a secret or restricted key of Stripe: sk_... or rk_....")
    for name, value in found.items():
        if value and not key:
            raise _wrong(name, f"is of no use without {PREFIX}STRIPE_SECRET_KEY.")
    base = found["stripe_api_base"]
    if base and urlsplit(base).scheme not in ("http", "https"):
        raise _wrong("stripe_api_base", "must be an http or https URL.")
    return found | {"stripe_api_base": base.rstrip("/")}


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
    says = content = None
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as broken:
        says = f"cannot be read: {broken}"
    except yaml.YAMLError as broken:
        says = f"is not valid YAML: {' '.join(str(broken).split())}"
    if content is not None and not (isinstance(content, dict) and all(isinstance(name, str) for name in content)):
        says, content = "must be a mapping of settings", None
    if says is not None:
        faults.add(SettingsError(f"{PREFIX}CONFIG: {path} {says}.", _FILE))
    return dict(content or {})


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
    return tuple(models.values()) if models or not before else _default_models(env)


def _model(index: int, written: Any, env: dict[str, str]) -> ModelConfig:
    written = _substituted(written, f"models[{index}]", env, _MODELS)
    name = written.get("name") if isinstance(written, dict) else None
    where = f"models: {name!r}" if isinstance(name, str) else f"models[{index}]"
    try:
        model = msgspec.convert(written, ModelConfig)
        if not 0 <= model.retries <= _RETRIES_MAX:
            raise SettingsError(f"{where}: retries must be a whole number from 0 to {_RETRIES_MAX}.")
        if not model.deployments:
            raise SettingsError(f"{where} has no deployments.")
        for deployment in model.deployments:
            _check_deployment(where, deployment)
    except msgspec.ValidationError as wrong:
        raise SettingsError(f"{where}: {wrong}.", _MODELS) from wrong
    except SettingsError as wrong:
        raise SettingsError(str(wrong), _MODELS) from wrong
    return model


def _check_deployment(where: str, deployment: DeploymentConfig) -> None:
    translated = _is_translated(where, deployment)
    needs_base = deployment.provider != "demo" and not (translated and not deployment.api_base)
    if needs_base and urlsplit(deployment.api_base).scheme not in ("http", "https"):
        raise SettingsError(f"{where}: api_base must be an http or https URL.")
    if deployment.params and not translated:
        raise SettingsError(f"{where}: params are for translated providers only, and {deployment.provider} is none.")
    for name in deployment.params:
        if name in RESERVED or not _PARAM.fullmatch(name):
            raise SettingsError(f"{where}: params may not set {name}.")
    if translated and deployment.cached_tokens != "inside":
        raise SettingsError(f"{where}: cached_tokens is inside for {deployment.provider}: its usage is translated.")
    for name in deployment.speaks or ():
        if name not in DIALECTS:
            raise SettingsError(f"{where}: speaks may name {', '.join(DIALECTS)}, not {name}.")
        if translated and name in UNTRANSLATED and not deployment.api_base:
            raise SettingsError(f"{where}: a deployment of {deployment.provider} that speaks {name} needs an api_base.")
    if deployment.weight < 1:
        raise SettingsError(f"{where}: weight must be at least 1.")
    for name in ("rpm", "tpm", "concurrency"):
        limit = getattr(deployment.limits, name)
        if limit is not None and not 1 <= limit <= bounds.RATE_LIMIT_MAX:
            raise SettingsError(f"{where}: limits: {name} must be a whole number from 1 to {bounds.RATE_LIMIT_MAX}.")
    if deployment.cached_tokens not in ("inside", "beside"):
        raise SettingsError(f"{where}: cached_tokens must be inside or beside.")
    if deployment.first_byte_timeout_s <= 0 or deployment.chunk_timeout_s <= 0:
        raise SettingsError(f"{where}: time-outs must be above zero.")


def _is_translated(where: str, deployment: DeploymentConfig) -> bool:
    itself = is_azure_itself(deployment.provider, deployment.api_base, deployment.api_version, deployment.params)
    if deployment.api_version and not (itself and _VERSION.fullmatch(deployment.api_version)):
        raise SettingsError(f"{where}: api_version is for azure with an api_base, and is like 2024-10-21 or preview.")
    return deployment.provider in TRANSLATED and not itself


_OPENAI_PATTERNS: Final = (
    "gpt-*", "chatgpt-*", "o1*", "o3*", "o4*", "text-embedding-*", "whisper-*", "tts-*", "omni-moderation-*", "dall-e-*",
)  # fmt: skip


def _default_models(env: dict[str, str]) -> tuple[ModelConfig, ...]:
    """Without a file: OpenAI's models, when `OPENAI_API_KEY` is set. (The demo model comes with `demo`.)"""
    api_key = env.get("OPENAI_API_KEY", "")
    if not api_key:
        return ()
    api_base = env.get("OPENAI_BASE_URL", "") or "https://api.openai.com/v1"
    deployment = DeploymentConfig(provider="openai", model="*", api_base=api_base, api_key=api_key)
    return tuple(ModelConfig(name=pattern, deployments=[deployment]) for pattern in _OPENAI_PATTERNS)


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

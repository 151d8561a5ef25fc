"""Where the peers are installed, how, and why one is not."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

LITELLM: Final = "LiteLLM proxy"
PORTKEY: Final = "Portkey gateway"
_PINS: Final = Path(__file__).parent
_HOME: Final = _PINS.parent / ".peers"
_VENV: Final = _HOME / "litellm"
_MODULES: Final = _HOME / "portkey"
_PINNED: Final = {LITELLM: (_PINS / "litellm.txt",), PORTKEY: (_PINS / "package.json", _PINS / "package-lock.json")}
_FOLDERS: Final = {LITELLM: _VENV, PORTKEY: _MODULES}
_INSTALL_S: Final = 900.0
_NEVER: Final = "was not installed: see `make bench-peers`"
_PORTKEY_SCRIPT: Final = Path("node_modules/@portkey-ai/gateway/build/start-server.js")


def litellm_program() -> Path:
    """The `litellm` command of its environment."""
    return _VENV / "bin" / "litellm"


def portkey_script() -> Path:
    """What node runs."""
    return _MODULES / _PORTKEY_SCRIPT


def why_missing(name: str) -> str:
    """Empty when the peer is installed just as it is pinned; else the reason, as one clause."""
    done, failed = _marks(name)
    if done.exists() and done.read_text() == _fingerprint(name):
        return ""
    return failed.read_text() if failed.exists() else _NEVER


def versions() -> dict[str, str]:
    """Name and pinned version of each peer that is installed."""
    pins = (_PINS / "litellm.txt").read_text().splitlines()
    pinned = {
        LITELLM: next(pin.removeprefix("litellm==") for pin in pins if pin.startswith("litellm==")),
        PORTKEY: json.loads((_PINS / "package.json").read_text())["dependencies"]["@portkey-ai/gateway"],
    }
    return {name: version for name, version in pinned.items() if not why_missing(name)}


def install_litellm() -> None:
    """Into a Python environment of its own."""
    _VENV.parent.mkdir(parents=True, exist_ok=True)
    pip = [str(_VENV / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    _install(LITELLM, [[sys.executable, "-m", "venv", "--clear", str(_VENV)], [*pip, "-r", str(_PINS / "litellm.txt")]])


def install_portkey() -> None:
    """Into a folder of node modules. No script of any package is run."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        _marked(PORTKEY, "was not installed: node and npm are needed (apt-get install nodejs npm)")
        return
    shutil.rmtree(_MODULES, ignore_errors=True)
    _MODULES.mkdir(parents=True)
    for pin in _PINNED[PORTKEY]:
        shutil.copy(pin, _MODULES)
    _install(PORTKEY, [["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(_MODULES)]])


def _install(name: str, commands: Sequence[Sequence[str]]) -> None:
    for command in commands:
        try:
            made = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S)
        except (OSError, subprocess.TimeoutExpired) as failed:
            _marked(name, f"could not be installed ({type(failed).__name__})")
            return
        if made.returncode:
            print(made.stderr[-2000:], file=sys.stderr)
            _marked(name, f"could not be installed ({Path(command[0]).name} ended with {made.returncode})")
            return
    _marked(name, "")


def _marked(name: str, failure: str) -> None:
    """Keep the outcome beside the peer's folder: the pins it was installed from, or why it was not."""
    done, failed = _marks(name)
    for mark in (done, failed):
        mark.unlink(missing_ok=True)
    _HOME.mkdir(parents=True, exist_ok=True)
    (failed if failure else done).write_text(failure or _fingerprint(name))


def _marks(name: str) -> tuple[Path, Path]:
    folder = _FOLDERS[name]
    return folder.with_suffix(".installed"), folder.with_suffix(".failed")


def _fingerprint(name: str) -> str:
    """What it is pinned to, and the Python or node that it was made for."""
    made_for = f"python {sys.version_info[:2]}" if name == LITELLM else "node"
    return hashlib.sha256(b"".join(pin.read_bytes() for pin in _PINNED[name]) + made_for.encode()).hexdigest()

"""The configuration file as it is written: YAML, a mapping of settings, and all of it there. What they mean is `settings`'s."""

from pathlib import Path
from typing import Any

import yaml


def read(path: Path) -> dict[str, Any]:
    """What stands in it; ValueError with what is wrong, as the end of a sentence that begins with the file's name."""
    try:
        text = path.read_text("utf-8")
        content = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as broken:
        raise ValueError(f"cannot be read: {broken}") from broken
    except yaml.YAMLError as broken:
        raise ValueError(f"is not valid YAML: {' '.join(str(broken).split())}") from broken
    if content is None:
        return {}
    if not (isinstance(content, dict) and all(isinstance(name, str) for name in content)):
        raise ValueError("must be a mapping of settings")
    _check_whole(content, text)
    return content


def _check_whole(content: dict[str, Any], text: str) -> None:
    """That it does not lack its end, as far as that shows where it still parses. ValueError.

    A value that is not there yet would be taken for a default (that of `prices` is the list's), half a number for all of it.
    """
    if not text.endswith(("\n", "}", "]", '"', "'")):  # after a plain value nothing but the end of its line says that it is whole
        raise ValueError("does not end with a newline: is it cut off?")
    if empty := _first_empty(content, ""):
        raise ValueError(f"has no value for {empty.removeprefix('.')}: is it cut off? (Leave out what is not to be set.)")


def _first_empty(value: Any, where: str) -> str:
    named = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in named:
        place = f"{where}[{name}]" if isinstance(value, list) else f"{where}.{name}"
        if found := place if each is None else _first_empty(each, place):
            return found
    return ""

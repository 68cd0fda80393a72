"""Hostile input as data, one JSON file a kind: whoever knows one more adds a line, and the tests try it everywhere."""

import json
from pathlib import Path
from typing import Any


def read(name: str, key: str) -> Any:
    """What stands under the key in the file of this name."""
    return json.loads(Path(__file__).with_name(f"{name}.json").read_text(encoding="utf-8"))[key]


def fill(template: str, values: dict[str, str]) -> str:
    """The text with its placeholders filled in. Other braces stay as they are."""
    for name, value in values.items():
        template = template.replace("{" + name + "}", value)
    return template

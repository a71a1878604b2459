"""Names of the files in a native model folder."""

from gfnet_fast.model.quantised import NETWORKS

CONFIG, WEIGHTS, THRESHOLDS = "config.json", "model.safetensors", "thresholds.json"

INT8, THRESHOLDS_INT8 = "int8.json", "thresholds.int8.json"
"""There in a model that has an int8 form, with NETWORKS_INT8; the second where that has exits of its own."""


def int8_files(network: str) -> tuple[str, str]:
    """Its topology and its weights."""
    return f"int8-{network}.xml", f"int8-{network}.bin"


NETWORKS_INT8 = tuple(file for network in NETWORKS for file in int8_files(network))
"""Of all networks; a cascaded classifier has none."""

"""Names of the files in a native model folder."""

from gfnet_fast.model.quantised import NETWORKS

CONFIG, WEIGHTS, THRESHOLDS = "config.json", "model.safetensors", "thresholds.json"

INT8, THRESHOLDS_INT8 = "int8.json", "thresholds.int8.json"
"""There in a model that has an int8 form, with NETWORKS_INT8; the second where that has exits of its own."""

NETWORKS_INT8 = tuple(int8 for name in NETWORKS for int8 in (f"int8-{name}.xml", f"int8-{name}.bin"))
"""Of each network its topology and its weights; a cascaded classifier has none."""

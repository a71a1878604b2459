"""Models by name: which names there are, where each model lies, and how it gets there.

`names` knows the models that come along and the released ones, `sources` what else can be fetched and where
it is kept, `fetching` gets it once, by `download` or through Hugging Face's own client.
"""

from gfnet_fast.hub.fetching import fetch
from gfnet_fast.hub.names import comes_along, known_names, nearest
from gfnet_fast.hub.progress import shown_by
from gfnet_fast.hub.sources import locate, source_of

__all__ = ["comes_along", "fetch", "known_names", "locate", "nearest", "shown_by", "source_of"]

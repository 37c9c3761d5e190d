"""All reference formats, by name."""

from collections.abc import Mapping

from autocompress.store.pack.reference.base import Format
from autocompress.store.pack.reference.csc import Csc
from autocompress.store.pack.reference.hac import Hac
from autocompress.store.pack.reference.index_map import IndexMap
from autocompress.store.pack.reference.shac import Shac

FORMATS: Mapping[str, Format] = {one.name: one for one in (Csc, IndexMap, Hac, Shac)}

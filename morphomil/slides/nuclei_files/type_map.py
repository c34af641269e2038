"""The names that other programs give to types of nuclei -> `NUCLEUS_TYPES`.

The names known without being told are those of PanNuke (Gamper et al. 2020), CoNSeP and Lizard
(Graham et al. 2019, 2021), BRCA-M2C (Abousamra et al. 2021), MoNuSAC (Verma et al. 2021) and of
QuPath's default classes. Inflammatory cells are mostly lymphocytes and plasma cells there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from morphomil.errors import InputError
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    from numpy.typing import NDArray

KNOWN_NAMES = {
    "epithelial": (
        "epithelial, epithelium, epithelial cell, tumor, tumour, tumor cell, neoplastic, "
        "neoplastic epithelial, neoplastic cells, cancer, cancer cell, carcinoma, malignant, "
        "malignant epithelial, malignant/dysplastic epithelial, non-neoplastic epithelial, "
        "healthy epithelial, normal epithelial, benign epithelial, tumor or epithelial"
    ),
    "lymphocyte": (
        "lymphocyte, lymphocytes, til, tils, inflammatory, inflammatory cells, immune, "
        "immune cell, immune cells, plasma, plasma cell, plasma cells"
    ),
    "stroma": (
        "stroma, stromal, stromal cell, stromal cells, connective, connective tissue, "
        "connective/soft tissue cells, spindle, spindle-shaped, fibroblast, fibroblasts, "
        "endothelial, muscle"
    ),
    "other": "other, misc, miscellaneous, dead, dead cells, necrosis, necrotic",
}
"""Names without regard to case, by type."""
DEFAULT_MAP = {
    name.strip(): kind for kind, names in KNOWN_NAMES.items() for name in names.split(",")
}


def parse_type_map(text: str) -> dict[str, str]:
    """The map in `NAME=TYPE,NAME=TYPE`, names without regard to case.

    Raises:
        InputError: a part isn't so written, its type is none of `NUCLEUS_TYPES`, or a name has two.
    """
    types: dict[str, str] = {}
    problems = []
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, kind = (piece.strip() for piece in part.rpartition("="))
        key = name.casefold()
        if not equals or not name:
            problems.append(f"--type-map is NAME=TYPE,NAME=TYPE; got {part!r}")
        elif kind not in NUCLEUS_TYPES:
            problems.append(f"--type-map: a type is {', '.join(NUCLEUS_TYPES)}; got {part!r}")
        elif types.get(key, kind) != kind:
            problems.append(f"--type-map gives {name!r} two types: {types[key]} and {kind}")
        types[key] = kind
    if problems:
        raise InputError(problems)
    return types


def map_types(
    names: pd.Series[str], types: Mapping[str, str]
) -> tuple[NDArray[np.float32], Counter[str]]:
    """Probabilities (n, 4) of `NUCLEUS_TYPES`, 1 for the one that a name stands for, NaN where it
    stands for none or nothing is said; and how often names stand for none.

    `types` goes before the names known anyway (`DEFAULT_MAP`). Of a class derived from another, as
    in `Tumor: Positive`, the first part counts where the whole isn't known.
    """
    known = DEFAULT_MAP | dict(types)
    table = np.eye(len(NUCLEUS_TYPES), dtype=np.float32)
    rows = np.full((len(names), len(NUCLEUS_TYPES)), np.nan, np.float32)
    unmapped: Counter[str] = Counter()
    for name, places in names.groupby(names).indices.items():
        whole = str(name).strip().casefold()
        kind = known.get(whole, known.get(whole.partition(":")[0].strip()))
        if kind is None:
            unmapped[str(name)] += len(places)
        else:
            rows[places] = table[NUCLEUS_TYPES.index(kind)]
    return rows, unmapped

"""Reads the h5ad files of a folder with anndata, writes them again, and prints what they hold as
JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anndata

said = {}
folder = Path(sys.argv[1])
for path in sorted(folder.rglob("*.h5ad")):
    table = anndata.read_h5ad(path)
    table.write_h5ad(path.with_suffix(".again"))
    assert (anndata.read_h5ad(path.with_suffix(".again")).obs == table.obs).to_numpy().sum() > 0
    said[str(path.relative_to(folder).with_suffix(""))] = {
        "shape": list(table.shape),
        "first": float(table.X[0, 0]),
        "obs_names": list(table.obs_names),
        "var_names": list(table.var_names),
        "patient": [str(value) for value in table.obs["patient"]],
        "age": table.obs["covariate_age"].tolist(),
        "settings": json.loads(table.uns["morphomil"]["settings"]),
    }
print(json.dumps(said))

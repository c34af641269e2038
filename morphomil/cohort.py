"""Manifest (CSV or XLSX) -> cohort: slides, patients, labels, splits, covariates; every problem reported at once."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, get_args

import pandas as pd

from morphomil.store import fingerprint
from morphomil.types import Cohort, ImageSource, InputError, RefusedError, Slide, Split

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

"""Which annotated classes are tumor: those of a list, as whole names, never a word in a name."""

from __future__ import annotations

import re
import unicodedata
from typing import Literal

Kind = Literal["tumor", "other", "unlisted", "unknown"]
TUMOR_CLASSES = (
    *("tumor", "tumors", "tumor area", "tumor areas", "tumor region", "tumor regions"),
    *("tumor tissue", "tumor cells", "tumor epithelium", "tumor roi", "primary tumor"),
    *("invasive", "invasive tumor", "viable tumor", "malignant", "malignant tumor"),
    *("cancer", "cancerous", "invasive cancer", "breast cancer", "invasive breast cancer"),
    *("carcinoma", "invasive carcinoma", "adenocarcinoma", "squamous cell carcinoma"),
    *("invasive ductal carcinoma", "invasive lobular carcinoma", "idc", "ilc"),
    *("metastasis", "metastases", "metastatic tumor", "tumor metastasis"),
    *("neoplasm", "neoplasia", "neoplastic", "positive", " 0", " 1"),
)
"""Classes that count as tumor where the user names none, as `normal_name` writes them; ` 0` and
` 1` are `_0` and `_1` of CAMELYON16."""
_SPELLINGS = ((r"tumour", "tumor"), (r"neoplasie\b", "neoplasia"))
_NO_CLASS = re.compile(
    r"(annotation|region|roi|area|polygon|shape|object|layer|outline|contour|selection|none"
    r"|unclassified|unnamed|default)?s?( ?\d+)?"
)
"""Programs give such names to what nobody classified: `Region*` of QuPath, `Layer 1` of
ImageScope."""
_OTHER = re.compile(
    r"\b(non|no|not)[ -]?(tumor|cancer|neoplas|malign|invasive)|normal|benign|healthy|stroma|necro"
    r"|immune|lympho|\bfat\b|adipos|background|art[ei]fact|ignore|exclu|^ 2$"
)
"""What is no tumor for certain, and is cut out of the tumor that it lies in; ` 2` is `_2` of
CAMELYON16."""
_SOUNDS_LIKE_TUMOR = re.compile(r"tumor|cancer|carcinoma|metasta|malignan|neoplas|invasive")


def normal_name(name: str) -> str:
    """A class name without the differences that don't count: case, spaces, `_`, `-`, `*`,
    spelling."""
    text = unicodedata.normalize("NFKC", name).casefold()
    text = re.sub(r"[\s_-]+", " ", text).rstrip(" *")
    for pattern, spelling in _SPELLINGS:
        text = re.sub(pattern, spelling, text)
    return text if re.fullmatch(r" \d", text) else text.strip()


def parse_classes(text: str) -> frozenset[str]:
    """The names of a list with commas between; the documented list where it is empty."""
    names = {normal_name(name) for name in text.split(",")} - {""}
    return frozenset(names or TUMOR_CLASSES)


def kind_of(class_name: str, name: str, *, tumor_classes: str = "") -> Kind:
    """What an area is.

    A class of the list is tumor, and so is one derived from it (QuPath's `Tumor: Positive`), unless
    another part says that it isn't (`Tumor: Necrosis`). A class that isn't listed is `other` where
    it says so itself (normal, stroma, necrosis, ...), else `unlisted`. Where an area has no class,
    its name tells in the same way, except that any name is free to be `unknown`.
    """
    listed = parse_classes(tumor_classes)
    normal = normal_name(class_name)
    says = normal in listed or _OTHER.search(normal) or not _NO_CLASS.fullmatch(normal)
    title, whole = (class_name, normal) if says else (name, normal_name(name))
    parts = [normal_name(part) for part in title.split(":")]
    numbered = re.sub(r"(?<=\w)[ #]*\d+$", "", whole)
    if whole in listed or (not says and numbered in listed):
        return "tumor"
    is_other = [bool(_OTHER.search(part)) for part in parts]
    if any(part in listed for part in parts):
        plain = all(part in listed or not no for part, no in zip(parts, is_other, strict=True))
        return "tumor" if plain else "other"
    if any(is_other) or whole == "negative":
        return "other"
    return "unlisted" if says or _SOUNDS_LIKE_TUMOR.search(whole) else "unknown"

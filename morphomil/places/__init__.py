"""Where a file lies: a path on a disk, or an address elsewhere, whose file is copied to a bounded
cache for as long as it is read."""

from morphomil.places.address import (
    Address,
    Place,
    check_names,
    is_address,
    is_dicom,
    read_place,
    split_image_number,
    without_secrets,
)
from morphomil.places.cache import cache_folder, held, local_copy, naming, too_large
from morphomil.places.identity import fingerprint, identity, sizes_of, stamp
from morphomil.places.remote import Known, look_at_all

__all__ = [
    "Address",
    "Known",
    "Place",
    "cache_folder",
    "check_names",
    "fingerprint",
    "held",
    "identity",
    "is_address",
    "is_dicom",
    "local_copy",
    "look_at_all",
    "naming",
    "read_place",
    "sizes_of",
    "split_image_number",
    "stamp",
    "too_large",
    "without_secrets",
]

"""Kept portraits as WebDataset shards: planned, encoded, published, verified and described."""

from .encode import CODECS, Record, encode, gray_from_alpha, member_names, rgb_from_image
from .export import LAYOUTS, export
from .manifest import (
    CONFIG,
    config_hash,
    finish,
    mattesmith_version,
    open_dataset,
    package_versions,
    read_config,
    read_shards,
)
from .members import Problem, samples_of
from .photos import estimated_tile, write_photo
from .plan import Candidate, TooFewKept, fill_shard, key_of, plan
from .read import Composites
from .report import report
from .selection import Selection, by_condition, by_expected_mad, by_quantile, refilter, sums_of
from .sheet import contact_sheet, matte_tile, save_sheet
from .stats import Statistics, is_calibrated, read_statistics, tables
from .verify import damaged, verify
from .writer import publish_text, write_shard

__all__ = [
    "CODECS",
    "CONFIG",
    "LAYOUTS",
    "Candidate",
    "Composites",
    "Problem",
    "Record",
    "Selection",
    "Statistics",
    "TooFewKept",
    "by_condition",
    "by_expected_mad",
    "by_quantile",
    "config_hash",
    "contact_sheet",
    "damaged",
    "encode",
    "estimated_tile",
    "export",
    "fill_shard",
    "finish",
    "gray_from_alpha",
    "is_calibrated",
    "key_of",
    "matte_tile",
    "mattesmith_version",
    "member_names",
    "open_dataset",
    "package_versions",
    "plan",
    "publish_text",
    "read_config",
    "read_shards",
    "read_statistics",
    "refilter",
    "report",
    "rgb_from_image",
    "samples_of",
    "save_sheet",
    "sums_of",
    "tables",
    "verify",
    "write_photo",
    "write_shard",
]

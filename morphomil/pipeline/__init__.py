"""The stages of a run, from manifest to ranking."""

from morphomil.pipeline.embedding import embed
from morphomil.pipeline.execution import Progress, Shard, Silence, StageResult
from morphomil.pipeline.importing import import_nuclei
from morphomil.pipeline.measurement import featurize
from morphomil.pipeline.modeling import heatmap, predict, train
from morphomil.pipeline.ranking import rank, rank_part
from morphomil.pipeline.resolution import check_pixel_sizes
from morphomil.pipeline.segmentation import segment

__all__ = [
    "Progress",
    "Shard",
    "Silence",
    "StageResult",
    "check_pixel_sizes",
    "embed",
    "featurize",
    "heatmap",
    "import_nuclei",
    "predict",
    "rank",
    "rank_part",
    "segment",
    "train",
]

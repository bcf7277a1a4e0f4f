"""What is done to a series before it is fitted, and the counting of regions in its maps.

`crop`, `downsample` and `dct_denoise` prepare a series as the multi-task estimation study of
abdominal tumours prepares its own; `segment` and `region_index` are how it judges the maps.
"""

from kety.preprocess.denoise import choose_keep, dct_denoise, effective_frames
from kety.preprocess.region import Blocks, Box, crop, downsample
from kety.preprocess.segment import RegionIndex, classify, region_index, segment

__all__ = [
    "Blocks",
    "Box",
    "RegionIndex",
    "choose_keep",
    "classify",
    "crop",
    "dct_denoise",
    "downsample",
    "effective_frames",
    "region_index",
    "segment",
]

"""What is done to a series before it is fitted, and the counting of regions in its maps.

`make_mask` says which voxels are worth fitting. `crop`, `downsample` and `dct_denoise` prepare a
series as the multi-task estimation study of abdominal tumours prepares its own; `segment` and
`region_index` are how it judges the maps.
"""

from kety.preprocess.denoise import choose_keep, dct_denoise, effective_frames
from kety.preprocess.enhancing import enhancement_mask
from kety.preprocess.masks import KINDS, air_mask, body_mask, bone_mask, make_mask
from kety.preprocess.region import Blocks, Box, crop, downsample
from kety.preprocess.segment import RegionIndex, classify, region_index, segment

__all__ = [
    "KINDS",
    "Blocks",
    "Box",
    "RegionIndex",
    "air_mask",
    "body_mask",
    "bone_mask",
    "choose_keep",
    "classify",
    "crop",
    "dct_denoise",
    "downsample",
    "effective_frames",
    "enhancement_mask",
    "make_mask",
    "region_index",
    "segment",
]

"""CADDet, https://arxiv.org/abs/2012.04265: one paper, one folder."""
from official_ext.modeling.backbones.caddet.caddet import CADDet
from official_ext.modeling.backbones.caddet.caddet import CADDetConfig

__all__ = [
    'CADDet',
    'CADDetConfig',
]

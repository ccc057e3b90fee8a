"""The fine-grained dynamic head, https://arxiv.org/abs/2012.03519: one paper, one folder."""
from official_ext.modeling.heads.dynamic_head.tower import DynamicTower
from official_ext.modeling.heads.dynamic_head.tower import DynamicTowerConfig

__all__ = [
    'DynamicTower',
    'DynamicTowerConfig',
]

"""Backbones as Keras Applications and torchvision compute them, for weights of their ImageNet runs.

`tools.convert_backbone` writes checkpoints of these backbones.
"""
from official_ext.modeling.backbones.imported.conventions import CARDINALITIES
from official_ext.modeling.backbones.imported.conventions import NETWORKS
from official_ext.modeling.backbones.imported.conventions import SOURCES
from official_ext.modeling.backbones.imported.imported import ImportedBackbone
from official_ext.modeling.backbones.imported.imported import ImportedConfig
from official_ext.modeling.backbones.imported.named import DEFORMABLE_SUFFIX
from official_ext.modeling.backbones.imported.named import NAMED

__all__ = [
    'CARDINALITIES',
    'DEFORMABLE_SUFFIX',
    'NAMED',
    'NETWORKS',
    'SOURCES',
    'ImportedBackbone',
    'ImportedConfig',
]

"""DyFPN, https://arxiv.org/abs/2012.00779: one paper, one folder."""
from official_ext.modeling.decoders.dyfpn.dyfpn import DyFPN
from official_ext.modeling.decoders.dyfpn.dyfpn import DyFPNConfig
from official_ext.modeling.decoders.dyfpn.inception_fpn import ALL_BRANCHES
from official_ext.modeling.decoders.dyfpn.inception_fpn import InceptionFPN
from official_ext.modeling.decoders.dyfpn.inception_fpn import InceptionFPNConfig
from official_ext.modeling.decoders.dyfpn.inception_fpn import InceptionLateral
from official_ext.modeling.decoders.dyfpn.inception_fpn import parse_branch

__all__ = [
    'ALL_BRANCHES',
    'DyFPN',
    'DyFPNConfig',
    'InceptionFPN',
    'InceptionFPNConfig',
    'InceptionLateral',
    'parse_branch',
]

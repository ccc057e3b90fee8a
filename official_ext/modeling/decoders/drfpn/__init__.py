"""DRFPN, https://arxiv.org/abs/2012.01733: one paper, one folder."""
from official_ext.modeling.decoders.drfpn.drfpn import DRFPN
from official_ext.modeling.decoders.drfpn.drfpn import DRFPNConfig

__all__ = [
    'DRFPN',
    'DRFPNConfig',
]

"""The implicit feature pyramid, https://arxiv.org/abs/2012.13563: one paper, one folder."""
from official_ext.modeling.decoders.ifpn.ifpn import ImplicitFPN
from official_ext.modeling.decoders.ifpn.ifpn import ImplicitFPNConfig

__all__ = [
    'ImplicitFPN',
    'ImplicitFPNConfig',
]

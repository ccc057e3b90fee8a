"""Names for ResNeXt and for deformable ResNets, so that `backbone.type` alone says which.

`resnext101_64x4d` stands for `imported` with this network, and `resnext101_64x4d_dcn` for the same
with deformable convolutions of version 2 in the stages that detectors give them.
"""
import dataclasses
import functools

from official.modeling import hyperparams

from official_ext.configs import components
from official_ext.modeling.backbones.imported import conventions
from official_ext.modeling.backbones.imported import imported

DEFORMABLE_SUFFIX = '_dcn'


@dataclasses.dataclass
class PlainConfig(hyperparams.Config):
  """Options of a named backbone; see the arguments of `ImportedBackbone`."""
  bn_trainable: bool = True


@dataclasses.dataclass
class DeformableConfig(PlainConfig):
  """Options of a deformable backbone; see the arguments of `ImportedBackbone`."""
  deformable_stages: list[int] = dataclasses.field(default_factory=lambda: [3, 4, 5])
  modulated: bool = True
  offset_rate: float = 1.0


@dataclasses.dataclass
class LateDeformableConfig(DeformableConfig):
  """The stages of X101-64x4d-DCN in the detectors of ATSS and PAA, which i-FPN compares with."""
  deformable_stages: list[int] = dataclasses.field(default_factory=lambda: [4, 5])


def _configs() -> dict[str, type[PlainConfig]]:
  """Returns the options of each named backbone."""
  plain = dict.fromkeys(conventions.CARDINALITIES, PlainConfig)
  resnets = [network for network, (kind, _) in conventions.NETWORKS.items() if kind == 'resnet']
  deformed = {f'{network}{DEFORMABLE_SUFFIX}': DeformableConfig for network in resnets}
  return {**plain, **deformed, f'resnext101_64x4d{DEFORMABLE_SUFFIX}': LateDeformableConfig}


NAMED = _configs()

for _name, _config in NAMED.items():
  components.register_backbone(_name, _config, imported.NORM_OPTIONS)(functools.partial(
      imported.ImportedBackbone, _name.removesuffix(DEFORMABLE_SUFFIX)))

"""The backbones of published rows: what the name of a YAML file says of its backbone."""
import re
from typing import Any

# ResNet or ResNeXt, deformable or not, in the name of a file.
PATTERN = r'resne(?:t\d+|xt\d+_\d+x\d+d)(?:_dcn)?'
# Levels of the deformable stages, where the compared detectors have not all from C3 to C5.
_STAGES = {'resnext101_64x4d_dcn': [4, 5]}


def fields(name: str) -> dict[str, Any]:
  """Returns the fields below `task` that the name of a file calls for.

  Args:
    name: with `resnet50`, `resnet101`, or the type of a named backbone.
  """
  backbone = re.search(PATTERN, name)[0]
  found: dict[str, Any] = {'losses.l2_weight_decay': 1e-4}
  if backbone != 'resnet50':
    # No checkpoint of the others is public, and one that does not fit must not be loaded.
    found['init_checkpoint'] = None
  if re.fullmatch(r'resnet\d+', backbone):
    return {**found, 'model.backbone.resnet.model_id': int(backbone[6:])}
  found |= {'model.backbone.type': backbone, f'model.backbone.{backbone}.bn_trainable': False}
  if backbone.endswith('_dcn'):
    found |= {f'model.backbone.{backbone}.deformable_stages': _STAGES.get(backbone, [3, 4, 5]),
              f'model.backbone.{backbone}.modulated': True,
              'model.head.tower.plain.deformable': True}
  return found

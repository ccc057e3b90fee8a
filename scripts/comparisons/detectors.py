"""Detectors side by side: Model Garden's heads and the papers', FCOS with and without tricks."""
import argparse
from typing import Any

from comparisons import comparison

_EXPERIMENT = '{}_{}_efficientnetlite0_sample'
_NECKS = ('fpn', 'drfpn', 'ifpn')
# The lines of the YAML files of DRFPN's and CADDet's rows, which have FCOS of mmdetection 2.1.
_NO_TRICKS = ','.join((
    'task.model.center_radius=0', 'task.losses.box_loss=iou',
    'task.model.head.centerness_tower=class', 'task.model.head.distance_activation=exp',
    'task.model.detection_generator.nms_iou_threshold=0.5'))
# Name of the run -> detector, decoder and overrides.
DETECTORS = {
    **{f'{detector}_{style}': (detector, 'fpn', f'task.model.head_style={style}')
       for detector in ('retinanet', 'fasterrcnn') for style in ('garden', 'paper')},
    'fcos_without_tricks': ('fcos', 'fpn', _NO_TRICKS),
    **{f'{detector}_{neck}': (detector, neck, '')
       for detector in ('fcos', 'atss') for neck in _NECKS},
    **{f'{detector}_{neck}': (detector, neck, '') for detector, neck in (
        ('autoassign', 'fpn'), ('autoassign', 'ifpn'), ('freeanchor', 'fpn'))},
    'efficientdet': ('efficientdet', 'bifpn', ''),
}
# Only by name.
DEFORMABLE = {
    'fcos_deformable': ('fcos', 'fpn', 'task.model.head.tower.plain.deformable=true'),
    # `imported` is a plain ResNet-50.
    **{f'fcos_resnet50{kind}': (
        'fcos', 'fpn', f'task.init_checkpoint=null,task.model.backbone.type={backbone}')
       for kind, backbone in (('', 'imported'), ('_dcn', 'resnet50_dcn'))},
}


class DetectorComparison(comparison.Comparison):
  """Trains detectors with the switches of the papers' rows and tables their accuracy.

  `<detector>_garden` has the heads and losses of Model Garden, `<detector>_paper` those of the
  papers' toolbox (`task.model.head_style`), both with Model Garden's FPN.  `fcos_without_tricks`
  has no center sampling, -log(IoU) as its box loss, center-ness from the class tower and
  exponential distances.  `fcos_<neck>` and `atss_<neck>` have another neck each.  Assignment is
  learned by `autoassign_<neck>` and `freeanchor_fpn`.  `efficientdet` has BiFPN, separable towers
  and Model Garden's losses.  Every name is trained twice.

  Not trained unless named: both towers of `fcos_deformable` end with a deformable convolution;
  `fcos_resnet50` and `fcos_resnet50_dcn` start from random weights.
  """
  default_runs = tuple(DETECTORS) * 2
  allowed = ', '.join([*DETECTORS, *DEFORMABLE])

  def add_arguments(self, parser: argparse.ArgumentParser) -> None:
    """Adds the size of images."""
    comparison.add_image_size(parser)

  def resolve(self, name: str, args: argparse.Namespace) -> comparison.Run | None:
    """Returns the training of a detector."""
    known = {**DETECTORS, **DEFORMABLE}
    if name not in known:
      return None
    detector, neck, overrides = known[name]
    return comparison.Run(_EXPERIMENT.format(detector, neck),
                          comparison.sized(overrides, args.image_size))

  def summarize(self, params: Any, evaluation: dict[str, float]) -> dict[str, float]:
    """Returns precision at all overlaps, at 0.5 and at 0.75."""
    del params
    return {name: evaluation[name] for name in ('AP', 'AP50', 'AP75')}

  def table(self, results: comparison.Results, milliseconds: dict[str, dict[str, float]]) -> str:
    """Returns one row per detector."""
    del milliseconds
    rows = ['| detector | runs | AP | AP50 | AP75 |', '|---|---:|---:|---:|---:|']
    for name, runs in results.items():
      strict = sum(run['AP75'] for run in runs) / len(runs)
      rows.append(f'| `{name}` | {comparison.precision_columns(runs)} | {strict:.3f} |')
    return '\n'.join(rows)

"""Necks side by side: RetinaNets of the composed sample's experiments, on other data."""
import argparse
from typing import Any

from comparisons import comparison

from official_ext.tools import profile
from official_ext.modeling import network_cost

_DECODER = 'task.model.decoder.'
# Name of the run -> decoder of the experiment, and overrides.
NECKS = {
    'fpn': ('fpn', ''),
    'pafpn': ('pafpn', ''),
    'bifpn': ('bifpn', ''),
    'carafe': ('carafe', ''),
    'deformable_fpn': ('deformable_fpn', ''),
    'inception_fpn': ('inception_fpn', ''),
    'dyfpn': ('dyfpn', ''),
    'drfpn': ('drfpn', ''),
    'drfpn_without_ppm': ('drfpn', f'{_DECODER}drfpn.context=none'),
    'ifpn': ('ifpn', ''),
    'ifpn_unroll2': ('ifpn', ','.join(f'{_DECODER}ifpn.solver.{field}' for field in (
        'solver=unroll', 'gradient=unroll', 'training_evaluations=2',
        'inference_evaluations=2'))),
    'ifpn_deformable': ('ifpn', f'{_DECODER}ifpn.deformable_kernels=true'),
}


class NeckComparison(comparison.Comparison):
  """Trains detectors with different necks and tables accuracy beside parameters and cost.

  Every run is the experiment `retinanet_<neck>_efficientnetlite0_sample`.
  """
  default_runs = tuple(NECKS)
  allowed = ', '.join(NECKS)

  def add_arguments(self, parser: argparse.ArgumentParser) -> None:
    """Adds the size of images."""
    comparison.add_image_size(parser)

  def resolve(self, name: str, args: argparse.Namespace) -> comparison.Run | None:
    """Returns the training of a neck."""
    if name not in NECKS:
      return None
    decoder, overrides = NECKS[name]
    return comparison.Run(f'retinanet_{decoder}_efficientnetlite0_sample',
                          comparison.sized(overrides, args.image_size))

  def summarize(self, params: Any, evaluation: dict[str, float]) -> dict[str, float]:
    """Returns precision, parameters, and the cost of an image in 10^9 multiply-adds."""
    model = profile.build_model(params, None)
    cost = network_cost.whole_network_cost(model, tuple(params.task.model.input_size[:2]))
    return {
        **{key: evaluation[key] for key in ('AP', 'AP50')},
        'parameters': profile.count_parameters(model)['total'],
        'gmac_minimum': cost.minimum / 1e9,
        'gmac_maximum': cost.maximum / 1e9,
        'train_steps': params.trainer.train_steps,
    }

  def table(self, results: comparison.Results, milliseconds: dict[str, dict[str, float]]) -> str:
    """Returns one row per neck; costs with every gate shut and open, where they differ."""
    del milliseconds
    rows = ['| neck | runs | AP | AP50 | parameters (10^6) | GMAC per image |',
            '|---|---:|---:|---:|---:|---:|']
    for neck, runs in results.items():
      low, high = runs[0]['gmac_minimum'], runs[0]['gmac_maximum']
      gmac = f'{high:.2f}' if low == high else f'{low:.2f} to {high:.2f}'
      rows.append(f'| `{neck}` | {comparison.precision_columns(runs)} | '
                  f'{runs[0]["parameters"] / 1e6:.2f} | {gmac} |')
    return '\n'.join(rows)

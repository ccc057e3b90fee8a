"""Trains detectors with different necks on one data set and tables accuracy beside cost.

    .venv/bin/python scripts/compare_necks.py --data=FOLDER --necks=fpn,fpn,fpn,drfpn,ifpn

Every neck is trained in the same way: the experiment `retinanet_<neck>_efficientnetlite0_sample`,
with its schedule, on the training images; average precision is that of Model Garden's
evaluation (pycocotools) of the last weights on the validation images.  A neck that is named
several times is trained several times: runs differ in the order of the images, the initial
weights of the neck and the augmentation.  A finished run is kept: the command can be repeated
after an interruption, and with more necks.
"""
import argparse
import pathlib
from typing import Dict

import comparison
import numpy as np

from official_ext import registry_imports
from official_ext.tools import profile
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.modeling import network_cost

_EXPERIMENT = 'retinanet_{}_efficientnetlite0_sample'
_DECODER = 'task.model.decoder.'
# Name in --necks -> decoder of the experiment, and overrides.
NECKS = {
    'fpn': ('fpn', ''),
    'inception_fpn': ('inception_fpn', ''),
    'dyfpn': ('dyfpn', ''),
    'drfpn': ('drfpn', ''),
    'drfpn_without_ppm': ('drfpn', f'{_DECODER}drfpn.context=none'),
    'ifpn': ('ifpn', ''),
    'ifpn_unroll2': ('ifpn', ','.join(f'{_DECODER}ifpn.solver.{field}' for field in (
        'solver=unroll', 'gradient=unroll', 'training_evaluations=2',
        'inference_evaluations=2'))),
}


def _arguments() -> argparse.Namespace:
  parser = comparison.parser(__doc__, 'runs/necks')
  parser.add_argument('--necks', default=','.join(NECKS), metavar='A,B,...',
                      help=f'any of {", ".join(NECKS)}; default: each once')
  return parser.parse_args()


def overrides(neck: str, train_steps: int) -> str:
  """Returns what the run of a neck overrides in its experiment."""
  return comparison.overrides(train_steps, NECKS[neck][1])


def _train(neck: str, folder: pathlib.Path, records: pathlib.Path,
           train_steps: int) -> Dict[str, float]:
  """Trains and evaluates one neck."""
  name, override = _EXPERIMENT.format(NECKS[neck][0]), overrides(neck, train_steps)
  config = records / 'overrides.yaml'
  comparison.command('train', experiment=name, mode='train_and_eval', model_dir=folder,
                     config_file=config, params_override=override)
  params = experiment.resolve(name, [str(config)], override, lock=False)
  model = profile.build_model(params, None)
  cost = network_cost.whole_network_cost(model, tuple(params.task.model.input_size[:2]))
  evaluation = comparison.last_evaluation(folder)
  return {
      **{key: evaluation[key] for key in ('AP', 'AP50')},
      'parameters': profile.count_parameters(model)['total'],
      'gmac_minimum': cost.minimum / 1e9,
      'gmac_maximum': cost.maximum / 1e9,
      'train_steps': params.trainer.train_steps,
  }


def table(results: comparison.Results) -> str:
  """Returns the results as a Markdown table, one row per neck."""
  rows = ['| neck | runs | AP | AP50 | parameters (10^6) | GMAC per image |',
          '|---|---:|---:|---:|---:|---:|']
  for neck, runs in results.items():
    ap, ap50 = ([run[name] for run in runs] for name in ('AP', 'AP50'))
    spread = f' ({min(ap):.3f} to {max(ap):.3f})' if len(runs) > 1 else ''
    low, high = runs[0]['gmac_minimum'], runs[0]['gmac_maximum']
    gmac = f'{high:.2f}' if low == high else f'{low:.2f} to {high:.2f}'
    rows.append(f'| `{neck}` | {len(runs)} | {np.mean(ap):.3f}{spread} | {np.mean(ap50):.3f} | '
                f'{runs[0]["parameters"] / 1e6:.2f} | {gmac} |')
  return '\n'.join(rows)


def main() -> None:
  """Trains what is not trained yet and prints the table after every run."""
  args = _arguments()
  necks = args.necks.split(',')
  unknown = sorted(set(necks) - set(NECKS))
  if unknown:
    raise command_line.CommandError(
        f'--necks names {", ".join(unknown)}; allowed are {", ".join(NECKS)}.')
  comparison.run_all(
      necks, args, lambda neck, folder, records: _train(neck, folder, records, args.train_steps),
      table)


if __name__ == '__main__':
  command_line.run(main)

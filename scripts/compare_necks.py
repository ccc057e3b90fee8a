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
import collections
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, Dict, List

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from tensorboard.backend.event_processing import event_accumulator
import tensorflow as tf

from official_ext import registry_imports
from official_ext.tools import profile
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files
from official_ext.utils import network_cost

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
  parser = argparse.ArgumentParser(
      description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', type=pathlib.Path, required=True, metavar='FOLDER',
                      help='data set in COCO, Pascal VOC or CSV layout')
  parser.add_argument('--necks', default=','.join(NECKS), metavar='A,B,...',
                      help=f'any of {", ".join(NECKS)}; default: each once')
  parser.add_argument('--train_steps', type=int, metavar='N',
                      help='default: what the experiments say')
  parser.add_argument('--output_dir', type=pathlib.Path, default=pathlib.Path('runs/necks'),
                      metavar='DIR', help='default: runs/necks')
  return parser.parse_args()


def _overrides(neck: str, train_steps: int) -> str:
  # Digits of the composed sample must not be mirrored; most other things may be.
  overrides = ['task.train_data.parser.aug_rand_hflip=true']
  if train_steps:
    overrides += [f'trainer.train_steps={train_steps}',
                  f'trainer.validation_interval={train_steps}',
                  f'trainer.optimizer_config.learning_rate.cosine.decay_steps={train_steps}']
  return ','.join(overrides + [text for text in [NECKS[neck][1]] if text])


def _command(module: str, **options: Any) -> None:
  """Runs one of the package's commands and shows only its errors."""
  arguments = [f'--{key}={value}' for key, value in options.items()]
  result = subprocess.run(
      [sys.executable, '-m', f'official_ext.{module}', *arguments], check=False, text=True,
      stderr=subprocess.PIPE, env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'})
  if result.returncode:
    raise command_line.CommandError(
        f'official_ext.{module} {" ".join(arguments)} ended with status {result.returncode}: '
        f'{(result.stderr.strip() or "no message").splitlines()[-1]}')


def _average_precision(model_dir: pathlib.Path) -> Dict[str, float]:
  """Reads what the trainer's last evaluation wrote for TensorBoard."""
  events = event_accumulator.EventAccumulator(
      str(model_dir / 'validation'), size_guidance={event_accumulator.TENSORS: 0})
  events.Reload()
  return {name: float(tf.make_ndarray(events.Tensors(name)[-1].tensor_proto))
          for name in ('AP', 'AP50')}


def _train(neck: str, folder: pathlib.Path, records: pathlib.Path, train_steps: int) -> None:
  """Trains and evaluates one neck, and writes `result.json` at the end."""
  name, overrides = _EXPERIMENT.format(NECKS[neck][0]), _overrides(neck, train_steps)
  config = records / 'overrides.yaml'
  _command('train', experiment=name, mode='train_and_eval', model_dir=folder,
           config_file=config, params_override=overrides)
  params = experiment.resolve(name, [str(config)], overrides, lock=False)
  model = profile.build_model(params, None)
  cost = network_cost.whole_network_cost(model, tuple(params.task.model.input_size[:2]))
  result = {
      **_average_precision(folder),
      'parameters': profile.count_parameters(model)['total'],
      'gmac_minimum': cost.minimum / 1e9,
      'gmac_maximum': cost.maximum / 1e9,
      'train_steps': params.trainer.train_steps,
  }
  with files.atomic_file(folder / 'result.json') as path:
    path.write_text(json.dumps(result, indent=2) + '\n', encoding='utf-8')


def table(results: Dict[str, List[Dict[str, float]]]) -> str:
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
  records = args.output_dir / 'records'
  _command('tools.convert_dataset', input=args.data, output_dir=records)
  counts, results = collections.Counter(), collections.defaultdict(list)
  for number, neck in enumerate(necks, 1):
    counts[neck] += 1
    folder = args.output_dir / f'{neck}-{counts[neck]}'
    if not (folder / 'result.json').is_file():
      command_line.say(f'\n[{number}/{len(necks)}] training {neck} in {folder}')
      _train(neck, folder, records, args.train_steps)
    results[neck].append(json.loads((folder / 'result.json').read_text(encoding='utf-8')))
    command_line.say(f'\n{table(results)}')


if __name__ == '__main__':
  command_line.run(main)

"""Trains detectors with different heads on one data set and tables accuracy, cost and time.

    .venv/bin/python scripts/compare_heads.py --data=FOLDER

`fcos` and `atss` have towers of four convolutions, `fcos_dynamic_<lambda>` the dynamic head D2
with the budget's weight lambda, `fcos_fixed` the same without gates.  All are trained alike,
with the schedule of the experiments on the sample; average precision and cost are those of Model
Garden's evaluation (pycocotools) of the last weights on the validation images.  At the end the
trained models are timed in turn, one image at a time.  A finished run is kept: the command can
be repeated after an interruption, and with more heads.
"""
import json
import pathlib
import re
from typing import Any, Callable, Dict, List, Tuple

import comparison
import numpy as np
from official.core import task_factory
import tensorflow as tf
import timing

from official_ext import registry_imports
from official_ext.tools import profile
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files
from official_ext.modeling import network_cost
from official_ext.serving import remapper

_EXPERIMENT = '{}_efficientnetlite0_sample'
# As many as two blocks have.
_PLAIN = 'task.model.head.tower.plain.num_convs=4'
_FIXED = ','.join(['task.budget.weight=0'] + [
    f'task.model.head.tower.dynamic.{step}=fixed' for step in ('scale_step', 'depth_step')])
# Name in --heads -> experiment, and overrides.
HEADS = {
    'fcos': ('fcos_fpn', _PLAIN),
    'atss': ('atss_fpn', _PLAIN),
    'fcos_fixed': ('fcos_dynamichead', _FIXED),
}
_DYNAMIC = re.compile(r'fcos_dynamic_(\d+(?:\.\d+)?)')
_DEFAULT = (*HEADS, 'fcos_dynamic_0', 'fcos_dynamic_0.4', 'fcos_dynamic_1.6')
_GIGA = 1e9


def resolve_head(head: str) -> Tuple[str, str]:
  """Returns the experiment and the overrides of a head.

  Raises:
    CommandError: there is no such head.
  """
  match = _DYNAMIC.fullmatch(head)
  if match:
    return _EXPERIMENT.format('fcos_dynamichead'), f'task.budget.weight={float(match[1])}'
  if head not in HEADS:
    raise command_line.CommandError(
        f'--heads names {head}; allowed are {", ".join(HEADS)} and fcos_dynamic_<lambda>, such as '
        'fcos_dynamic_0.4.')
  name, overrides = HEADS[head]
  return _EXPERIMENT.format(name), overrides


def _resolve(head: str, records: pathlib.Path, train_steps: int) -> Tuple[Any, Dict[str, Any]]:
  """Returns the experiment of a run, and the trainer's flags."""
  name, overrides = resolve_head(head)
  flags = {'experiment': name, 'config_file': records / 'overrides.yaml',
           'params_override': comparison.overrides(train_steps, overrides)}
  params = experiment.resolve(
      name, [str(flags['config_file'])], flags['params_override'], lock=False)
  return params, flags


def head_cost(cost: network_cost.NetworkCost, evaluation: Dict[str, float]) -> Dict[str, float]:
  """Returns `gmac_mean`, `gmac_min` and `gmac_max` of a head over the images of an evaluation.

  Args:
    cost: of the network, in which only the head is routed, if anything is.
    evaluation: what was logged; the multiply-adds of routed parts are `routing/gmac/executed/*`.
  """
  fixed = (cost.maximum_by_part['head'] - (cost.maximum - cost.static)) / _GIGA
  return {f'gmac_{name}': fixed + evaluation.get(f'routing/gmac/executed/{name}', 0.0)
          for name in ('mean', 'min', 'max')}


def _train(head: str, folder: pathlib.Path, records: pathlib.Path,
           train_steps: int) -> Dict[str, float]:
  """Trains and evaluates a detector with one head."""
  params, flags = _resolve(head, records, train_steps)
  comparison.command('train', mode='train_and_eval', model_dir=folder, **flags)
  model = profile.build_model(params, None)
  cost = network_cost.whole_network_cost(model, tuple(params.task.model.input_size[:2]))
  evaluation = comparison.last_evaluation(folder)
  return {
      **{key: evaluation[key] for key in ('AP', 'AP50')},
      **head_cost(cost, evaluation),
      'gmac_network': cost.maximum / _GIGA,
      'train_steps': params.trainer.train_steps,
  }


def _functions(params: Any, folder: pathlib.Path, images: tf.Tensor
               ) -> Dict[str, Callable[[], Any]]:
  """Returns calls that run a trained detector, and its head alone, on images one by one."""
  model = profile.build_model(params, str(folder))

  @tf.function(autograph=False)
  def detect(image):
    shape = tf.cast(tf.shape(image)[1:3], tf.float32)[None]
    return model(image, image_shape=shape, training=False)['detection_boxes']

  @tf.function(autograph=False)
  def predict(features):
    return model.head(features, training=False)

  @tf.function(autograph=False)
  def pyramid(image):
    return model.decoder(model.backbone(image, training=False), training=False)

  singles = [image[None] for image in images]
  features = [pyramid(image) for image in singles]
  return {'head': lambda: [tf.nest.flatten(predict(x))[0].numpy() for x in features],
          'detector': lambda: [detect(image).numpy() for image in singles]}


def latencies(runs: Dict[str, Tuple[Any, pathlib.Path]], num_images: int, repeats: int
              ) -> Dict[str, Dict[str, float]]:
  """Times trained detectors in turn.

  Args:
    runs: name -> experiment and folder of a training.
    num_images: validation images, each alone in its batch.
    repeats: of all images.

  Returns:
    Name -> median milliseconds per image of `head` and `detector`.
  """
  params = next(iter(runs.values()))[0]
  data = params.task.validation_data.replace(global_batch_size=num_images)
  images = next(iter(task_factory.get_task(params.task).build_inputs(data)))[0]
  with remapper.without_remapper(1):
    functions = {(name, part): call for name, run in runs.items()
                 for part, call in _functions(*run, images).items()}
    seconds = timing.interleaved(functions, repeats)
  found: Dict[str, Dict[str, float]] = {name: {} for name in runs}
  for (name, part), values in seconds.items():
    found[name][part] = float(1000 * np.median(values) / len(images))
  return found


def table(results: comparison.Results, milliseconds: Dict[str, Dict[str, float]]) -> str:
  """Returns the results as a Markdown table, one row per head; times where they are known."""
  rows = ['| head | runs | AP | AP50 | GMAC of the head, mean (min to max) | head, ms | '
          'detector, ms |', '|---|---:|---:|---:|---:|---:|---:|']
  for head, runs in results.items():
    ap = [run['AP'] for run in runs]
    spread = f' ({min(ap):.3f} to {max(ap):.3f})' if len(runs) > 1 else ''
    mean, low, high = (np.mean([run[f'gmac_{name}'] for run in runs])
                       for name in ('mean', 'min', 'max'))
    gmac = f'{mean:.3f}' + (f' ({low:.3f} to {high:.3f})' if low < high else '')
    times = [f'{milliseconds[head][part]:.1f}' if head in milliseconds else '-'
             for part in ('head', 'detector')]
    rows.append(f'| `{head}` | {len(runs)} | {np.mean(ap):.3f}{spread} | '
                f'{np.mean([run["AP50"] for run in runs]):.3f} | {gmac} | {" | ".join(times)} |')
  return '\n'.join(rows)


def _heads(text: str) -> List[str]:
  heads = text.split(',')
  for head in heads:
    resolve_head(head)
  return heads


def main() -> None:
  """Trains what is not trained yet, times all, and writes the table."""
  parser = comparison.parser(__doc__, 'runs/heads')
  parser.add_argument('--heads', default=','.join(_DEFAULT), metavar='A,B,...',
                      help=f'any of {", ".join(HEADS)} and fcos_dynamic_<lambda>; default: '
                      f'{", ".join(_DEFAULT)}')
  parser.add_argument('--images', type=int, default=16, help='images to time (16)')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  args = parser.parse_args()
  heads = _heads(args.heads)
  results = comparison.run_all(
      heads, args, lambda head, folder, records: _train(head, folder, records, args.train_steps),
      lambda found: table(found, {}))
  records = args.output_dir / 'records'
  milliseconds = latencies(
      {head: (_resolve(head, records, args.train_steps)[0], args.output_dir / f'{head}-1')
       for head in results}, args.images, args.repeats)
  final = table(results, milliseconds)
  command_line.say(f'\n{final}')
  arguments = f'--data={args.data} --heads={args.heads}'
  with files.atomic_file(args.output_dir / 'heads.md') as path:
    path.write_text(f'    .venv/bin/python scripts/compare_heads.py {arguments}\n\n{final}\n',
                    encoding='utf-8')
  with files.atomic_file(args.output_dir / 'heads.json') as path:
    path.write_text(json.dumps({'results': results, 'milliseconds': milliseconds}, indent=2),
                    encoding='utf-8')
  command_line.say(f'Wrote {args.output_dir}/heads.md')


if __name__ == '__main__':
  command_line.run(main)

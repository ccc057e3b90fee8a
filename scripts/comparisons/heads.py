"""Heads side by side: FCOS and ATSS of the composed sample's experiments, on other data."""
import argparse
from collections.abc import Callable
import re
from typing import Any

from comparisons import comparison
import numpy as np
from official.core import task_factory
import tensorflow as tf

from official_ext.tools import profile
from official_ext.utils import argument_types
from official_ext.utils import timing
from official_ext.modeling import network_cost

_EXPERIMENT = '{}_efficientnetlite0_sample'
# As many convolutions as the two blocks of the dynamic head have.
_PLAIN = 'task.model.head.tower.plain.num_convs=4'
_FIXED = ','.join(['task.budget.weight=0'] + [
    f'task.model.head.tower.dynamic.{step}=fixed' for step in ('scale_step', 'depth_step')])
# Name of the run -> experiment, and overrides.
HEADS = {
    'fcos': ('fcos_fpn', _PLAIN),
    'atss': ('atss_fpn', _PLAIN),
    'fcos_fixed': ('fcos_dynamichead', _FIXED),
}
_DYNAMIC = re.compile(r'fcos_dynamic_(\d+(?:\.\d+)?)')
_GIGA = 1e9


def head_cost(cost: network_cost.NetworkCost, evaluation: dict[str, float]) -> dict[str, float]:
  """Returns `gmac_mean`, `gmac_min` and `gmac_max` of a head over the images of an evaluation.

  Args:
    cost: of the network, in which only the head is routed, if anything is.
    evaluation: what was logged; the multiply-adds of routed parts are `routing/gmac/executed/*`.
  """
  fixed = (cost.maximum_by_part['head'] - (cost.maximum - cost.static)) / _GIGA
  return {f'gmac_{name}': fixed + evaluation.get(f'routing/gmac/executed/{name}', 0.0)
          for name in ('mean', 'min', 'max')}


class HeadComparison(comparison.Comparison):
  """Trains detectors with different heads and tables accuracy, cost and time.

  `fcos` and `atss` have towers of four convolutions, `fcos_dynamic_<lambda>` the dynamic head D2
  with the budget's weight lambda, `fcos_fixed` the same without gates.  At the end the first
  training of every head is timed, one image at a time and all heads in turn.
  """
  default_runs = (*HEADS, 'fcos_dynamic_0', 'fcos_dynamic_0.4', 'fcos_dynamic_1.6')
  allowed = f'{", ".join(HEADS)} and fcos_dynamic_<lambda>, such as fcos_dynamic_0.4'

  def add_arguments(self, parser: argparse.ArgumentParser) -> None:
    """Adds the length of the timing."""
    parser.add_argument('--images', type=argument_types.positive_int, default=16, metavar='N',
                        help='images to time (16)')
    parser.add_argument('--repeats', type=argument_types.positive_int, default=9, metavar='N',
                        help='interleaved repeats (9)')

  def resolve(self, name: str, args: argparse.Namespace) -> comparison.Run | None:
    """Returns the training of a head."""
    del args
    match = _DYNAMIC.fullmatch(name)
    if match:
      return comparison.Run(
          _EXPERIMENT.format('fcos_dynamichead'), f'task.budget.weight={float(match[1])}')
    if name not in HEADS:
      return None
    experiment, overrides = HEADS[name]
    return comparison.Run(_EXPERIMENT.format(experiment), overrides)

  def summarize(self, params: Any, evaluation: dict[str, float]) -> dict[str, float]:
    """Returns precision, and costs of the head and the network in 10^9 multiply-adds."""
    model = profile.build_model(params, None)
    cost = network_cost.whole_network_cost(model, tuple(params.task.model.input_size[:2]))
    return {
        **{key: evaluation[key] for key in ('AP', 'AP50')},
        **head_cost(cost, evaluation),
        'gmac_network': cost.maximum / _GIGA,
        'train_steps': params.trainer.train_steps,
    }

  def table(self, results: comparison.Results, milliseconds: dict[str, dict[str, float]]) -> str:
    """Returns one row per head; times where they are known."""
    rows = ['| head | runs | AP | AP50 | GMAC of the head, mean (min to max) | head, ms | '
            'detector, ms |', '|---|---:|---:|---:|---:|---:|---:|']
    for head, runs in results.items():
      mean, low, high = (np.mean([run[f'gmac_{name}'] for run in runs])
                         for name in ('mean', 'min', 'max'))
      gmac = f'{mean:.3f}' + (f' ({low:.3f} to {high:.3f})' if low < high else '')
      times = ' | '.join(f'{milliseconds[head][part]:.1f}' if head in milliseconds else '-'
                         for part in ('head', 'detector'))
      rows.append(f'| `{head}` | {comparison.precision_columns(runs)} | {gmac} | {times} |')
    return '\n'.join(rows)

  def latencies(self, trainings: dict[str, comparison.Training], args: argparse.Namespace
                ) -> dict[str, dict[str, float]]:
    """Returns name -> median milliseconds per image of `head` and `detector`."""
    params = next(iter(trainings.values())).params
    data = params.task.validation_data.replace(global_batch_size=args.images)
    images = next(iter(task_factory.get_task(params.task).build_inputs(data)))[0]
    functions = {(name, part): call for name, training in trainings.items()
                 for part, call in _functions(training, images).items()}
    seconds = timing.interleaved(functions, args.repeats)
    found: dict[str, dict[str, float]] = {name: {} for name in trainings}
    for (name, part), values in seconds.items():
      found[name][part] = float(1000 * np.median(values) / len(images))
    return found


def _functions(training: comparison.Training, images: tf.Tensor) -> dict[str, Callable[[], Any]]:
  """Returns calls that run a trained detector, and its head alone, on images one by one."""
  model = profile.build_model(training.params, str(training.folder))

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

"""Times DyFPN against plain necks: medians of ratios, interleaved in one run.

    .venv/bin/python benchmarks/dyfpn.py [--image_size 320] [--repeats 15] [--threads 1]

Necks are those of exports, with constant weights and batches of any size.  Machines are noisy:
only ratios within one run mean something.
"""
import argparse
import functools

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from official.core import exp_factory
from official.core import task_factory
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.decoders.dyfpn import gumbel_selection
from official_ext.ops import routing
from official_ext.serving.compiling import frozen
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import timing

# Of EfficientNet-Lite0.  Those of ResNet-50 have too many weights for constants, see `frozen`.
CHANNELS = {'3': 40, '4': 112, '5': 320}


class _GivenSelection:
  """Stands in for the selection of a DyFPN, which must not make the gates needless.

  Attributes:
    given: float32 `[batch, levels]`, 1 where the branches run.
  """

  given: tf.Tensor

  def __call__(self, logits, training=None):
    del training
    # The logits change nothing, but TensorFlow does not know that and runs the gates.
    selected = tf.cast(self.given + 1e-9 * (logits[..., 1] - logits[..., 0]) > 0.5, tf.float32)
    gate = tf.stack([1 - selected, selected], axis=-1)
    return gumbel_selection.Choice(gate, gate, gate)


def _frozen(function, *specs):
  """Returns a function of tensors as exports have it: constant weights, norms folded."""
  traced = tf.function(lambda *values: dict(function(*values)), autograph=False)
  return frozen.freeze(traced.get_concrete_function(*specs))[0]


def _necks(image_size):
  """Returns functions of features, and of gates where they have any, by name."""
  sizes = {level: [image_size >> int(level)] * 2 + [depth] for level, depth in CHANNELS.items()}
  options = {'input_specs': {level: [None, *size] for level, size in sizes.items()},
             'min_level': 3, 'max_level': 7}
  fpn, inception, skip = (
      dyfpn.InceptionFPN(branches=['1x1'], **options), dyfpn.InceptionFPN(**options),
      dyfpn.DyFPN(inference='skip', **options))
  for network in (fpn, inception, skip):
    network({level: tf.zeros([1, *size]) for level, size in sizes.items()})
  selection = skip._selection = _GivenSelection()
  specs = [tf.TensorSpec([None, *size], name=f'c{level}') for level, size in sizes.items()]

  def named(values):
    return dict(zip(CHANNELS, values))

  def dynamic(*values):
    selection.given = values[-1]
    with routing.RoutingTape() as tape:
      outputs = skip(named(values), training=False)
    return {**outputs, 'executed': tape.routing().executed}

  laterals = {level: _frozen(lambda value, level=level: {level: skip.laterals[level](value)}, spec)
              for level, spec in zip(CHANNELS, specs)}
  return {
      'fpn': _frozen(lambda *values: fpn(named(values), training=False), *specs),
      'fpn with gates': _frozen(lambda *values: {
          **fpn(named(values), training=False), 'logits': skip.gate(named(values))}, *specs),
      'inception': _frozen(lambda *values: inception(named(values), training=False), *specs),
      'dynamic': _frozen(
          dynamic, *specs, tf.TensorSpec([None, len(CHANNELS)], name='gates')), **laterals}


def _run(neck, arguments):
  """Runs a neck, and waits for its results."""
  tf.nest.map_structure(lambda value: value.numpy(), neck(*arguments))


def benchmark_necks(image_size: int, batch: int, repeats: int) -> None:
  """Prints shares of the time of other necks, for shares of selected (image, level) pairs."""
  features = [tf.random.stateless_normal(
      [batch, image_size >> int(level), image_size >> int(level), depth], [0, int(level)])
              for level, depth in CHANNELS.items()]
  necks = _necks(image_size)
  order = np.random.default_rng(0).permutation(batch * len(CHANNELS))
  command_line.say(f'\nbatch {batch}, {image_size} pixels, levels 3-5 of EfficientNet-Lite0:')
  for share in (0, 0.25, 0.5, 1):
    flat = np.zeros(batch * len(CHANNELS), np.float32)
    flat[order[:round(share * len(flat))]] = 1
    gates = tf.constant(flat.reshape(batch, -1))
    arguments = {'dynamic': [*features, gates],
                 **{level: [own] for level, own in zip(CHANNELS, features)}}
    seconds = timing.interleaved({
        name: functools.partial(_run, neck, arguments.get(name, features))
        for name, neck in necks.items()}, repeats)
    # The time of the laterals that are needed: levels differ in the time of a multiply-add.
    seconds['needed'] = seconds['fpn with gates'] + sum(
        part * seconds[level] for level, part in zip(CHANNELS, np.mean(gates, axis=0)))
    ratios = [timing.median_ratio(seconds, 'dynamic', name)
              for name in ('fpn', 'fpn with gates', 'inception', 'needed')]
    command_line.say(
        '  {:4.0%} of pairs selected: {:.3f} of FPN, {:.3f} of FPN with gates, {:.3f} of inception '
        'FPN, {:.3f} of FPN with gates and the selected laterals'.format(np.mean(flat), *ratios))


def _train_step(task_config):
  """Returns a call of a RetinaNet task's training step on two images of noise."""
  task = task_factory.get_task(task_config)
  model = task.build_model()
  optimizer = tf_keras.optimizers.legacy.SGD(1e-3)
  metrics = task.build_metrics(training=True)
  data = tf.random.stateless_uniform([2, 256, 256, 3], [1, 2])
  outputs = model(data, training=True)
  labels = {
      'cls_targets': {level: tf.zeros([2, *value.shape[1:3], 9], tf.int32)
                      for level, value in outputs['cls_outputs'].items()},
      'box_targets': {level: tf.zeros([2, *value.shape[1:3], 36])
                      for level, value in outputs['box_outputs'].items()},
  }
  anchors = sum(int(np.prod(t.shape[1:])) for t in labels['cls_targets'].values())
  labels['cls_weights'] = tf.ones([2, anchors])
  labels['box_weights'] = tf.ones([2, anchors])
  step = tf.function(lambda: task.train_step((data, labels), model, optimizer, metrics),
                     autograph=False)
  return step


def _shared_fields(values, known):
  """Returns the nested fields of `values` that `known` has as well."""
  return {
      field: _shared_fields(value, known[field])
      if isinstance(value, dict) and isinstance(known[field], dict) else value
      for field, value in values.items() if field in known}


def benchmark_training(repeats: int) -> None:
  """Prints the training step of our FPN experiment as a multiple of Model Garden's own."""
  routed = experiment.resolve('retinanet_fpn_efficientnetlite0_sample', lock=False)
  stock = exp_factory.get_exp_config('retinanet_resnetfpn_coco')
  stock.task.override(_shared_fields(routed.task.as_dict(), stock.task.as_dict()))
  seconds = timing.interleaved(
      {'routed': _train_step(routed.task), 'stock': _train_step(stock.task)}, repeats)
  ratio = timing.median_ratio(seconds, 'routed', 'stock')
  command_line.say('\ntraining step of retinanet_fpn_efficientnetlite0_sample: '
                   f"{ratio:.3f} of Model Garden's own task")


def main() -> None:
  """Runs all benchmarks."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, default=320, help='side in pixels (320)')
  parser.add_argument('--repeats', type=int, default=15, help='interleaved repeats (15)')
  parser.add_argument('--batches', nargs='*', type=int, default=[1, 8], help='(1 8)')
  parser.add_argument('--threads', type=int, help='of TensorFlow (as many as the machine has)')
  parser.add_argument('--training', action='store_true', help='time training steps too')
  args = parser.parse_args()
  if args.threads:
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  for batch in args.batches:
    benchmark_necks(args.image_size, batch, args.repeats)
  if args.training:
    benchmark_training(args.repeats)


if __name__ == '__main__':
  command_line.run(main)

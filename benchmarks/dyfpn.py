"""Times DyFPN against plain necks: medians of ratios, interleaved in one run.

    .venv/bin/python benchmarks/dyfpn.py [--image_size 320] [--repeats 15]

Machines are noisy: only ratios within one run mean something.
"""
import argparse

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
from official.core import exp_factory
from official.core import task_factory
import tensorflow as tf, tf_keras

from official_ext import registry_imports
from official_ext.modeling.decoders import dyfpn
from official_ext.modeling.decoders.dyfpn import gumbel_selection
from official_ext.ops import multiply_adds
from official_ext.ops import routing
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import timing

CHANNELS = {'3': 512, '4': 1024, '5': 2048}


class ForcedSelection(tf.Module):
  """Stands in for the selection of a DyFPN and returns the gates that it was given."""

  def __init__(self, batch: int):
    super().__init__()
    self.selected = tf.Variable(tf.zeros([batch, len(CHANNELS)]))

  def __call__(self, logits, training=None):
    del logits, training
    gate = tf.stack([1 - self.selected, self.selected], axis=-1)
    return gumbel_selection.Choice(gate, gate, gate)


def _neck(network, features):
  """Returns a call of the traced network, which is traced for any batch, with `features`."""
  network(features)
  specs = tf.nest.map_structure(lambda value: tf.TensorSpec([None, *value.shape[1:]]), features)
  traced = tf.function(lambda inputs: network(inputs, training=False), autograph=False)
  function = traced.get_concrete_function(specs)
  return lambda: function(features)


def benchmark_necks(image_size: int, batch: int, repeats: int) -> None:
  """Prints the share of the always-on neck's time, for shares of selected (image, level) pairs."""
  features = {level: tf.random.stateless_normal(
      [batch, image_size >> int(level), image_size >> int(level), channels], [0, int(level)])
      for level, channels in CHANNELS.items()}
  specs = {level: [None, *value.shape[1:]] for level, value in features.items()}
  options = {'input_specs': specs, 'min_level': 3, 'max_level': 7}
  skip, mask = (dyfpn.DyFPN(inference=inference, **options) for inference in ('skip', 'mask'))
  dense = multiply_adds.count_graph(tf.function(
      lambda: mask({level: value[:1] for level, value in features.items()}, training=False),
      autograph=False).get_concrete_function().graph)
  forced = ForcedSelection(batch)
  skip._selection = mask._selection = forced
  functions = {
      'fpn': _neck(dyfpn.InceptionFPN(branches=['1x1'], **options), features),
      'always': _neck(mask, features),
      'dynamic': _neck(skip, features),
      **{level: _neck(skip.laterals[level], value) for level, value in features.items()},
  }
  order = np.random.default_rng(0).permutation(batch * len(CHANNELS))
  command_line.say(f'\nbatch {batch}, {image_size} pixels, levels 3-5 (512, 1024, 2048 channels):')
  for share in (0, 0.25, 0.5, 1):
    flat = np.zeros(batch * len(CHANNELS), np.float32)
    flat[order[:round(share * len(flat))]] = 1
    forced.selected.assign(flat.reshape(batch, -1))
    with routing.RoutingTape() as tape:
      skip(features, training=False)
    record = tape.routing()
    executed = float(tf.reduce_mean(record.executed - record.all_branches)) + dense
    seconds = timing.interleaved(functions, repeats)
    # The time of the laterals that are needed: levels differ in the time of a multiply-add.
    selected = sum(part * seconds[level] for level, part in zip(
        features, np.mean(flat.reshape(batch, -1), axis=0)))
    seconds['selected'] = seconds['fpn'] + selected
    line = (f'  {np.mean(flat):4.0%} of pairs selected: '
            f'{timing.median_ratio(seconds, "dynamic", "always"):.3f} of always-on time, '
            f'{executed / dense:.3f} of its multiply-adds; FPN and the selected laterals alone '
            f'take {timing.median_ratio(seconds, "selected", "always"):.3f}')
    if share == 0:
      line += f'; {timing.median_ratio(seconds, "dynamic", "fpn"):.3f} of the FPN neck\'s time'
    command_line.say(line)


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
  args = parser.parse_args()
  for batch in (1, 8):
    benchmark_necks(args.image_size, batch, args.repeats)
  benchmark_training(args.repeats)


if __name__ == '__main__':
  command_line.run(main)

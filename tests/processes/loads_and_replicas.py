"""Loads saved models, knowing only the registry, then trains parts on two replicas; compares both.

A process of its own: logical devices must be made before anything runs, and several
strategies in one process get in each other's way.
"""
import importlib
import json
import pathlib
import sys

from official_ext import registry_imports
import numpy as np
import tensorflow as tf, tf_keras
from tensorflow.python.autograph.core import ag_ctx

from official_ext.losses import budgets
from official_ext.ops import routing
import reference
import spies

BATCH = 4


def _load(path):
  """Asserts that a saved model computes what is stored beside it."""
  model = tf_keras.models.load_model(path)
  inputs, outputs = (
      dict(np.load(path.with_name(f'{path.stem}_{kind}.npz'))) for kind in ('inputs', 'outputs'))
  answer = model(inputs)
  for level, expected in outputs.items():
    np.testing.assert_array_equal(tf.cast(answer[level], tf.float32), expected)


def _make(part):
  module, name = part['cls'].split(':')
  layer = getattr(importlib.import_module(module), name)(name='part', **part['options'])
  layer(reference.pyramid_inputs(part['channels'], batch=1))
  spies.randomize(layer)
  biases = part.get('gate_bias')
  for variable in layer.variables:
    if biases and 'gate/output' in variable.name and 'bias' in variable.name:
      variable.assign(biases)
  return layer


def _loss(layer, inputs, share):
  """The part of the mean over the joint batch that these images make up."""
  with routing.RoutingTape() as tape:
    outputs = layer(inputs, training=True)
  loss = tf.add_n([tf.reduce_mean(tf.square(x)) for x in outputs.values()])
  if tape.routing():
    loss += tf.cast(budgets.budget_loss(tape.routing(), 0.3), loss.dtype)
  return loss * tf.cast(share, loss.dtype)


def _step(layer, optimizer, inputs, share):
  with tf.GradientTape() as tape:
    loss = _loss(layer, inputs, share)
  variables = layer.trainable_variables
  optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables))
  return loss


def _compare(part, strategy):
  """Returns how one step of two replicas differs from one of a single device."""
  inputs = reference.pyramid_inputs(part['channels'], batch=BATCH)
  alone = _make(part)
  before = [v.numpy() for v in alone.trainable_variables]
  loss = float(_step(alone, tf_keras.optimizers.SGD(0.1), inputs, 1.0))

  with strategy.scope():
    mirrored, optimizer = _make(part), tf_keras.optimizers.SGD(0.1)
  halves = strategy.experimental_distribute_values_from_function(
      lambda context: {level: tf.constant(np.split(x, 2)[context.replica_id_in_sync_group])
                       for level, x in inputs.items()})
  step = tf.function(
      lambda batch: strategy.run(_step, args=(mirrored, optimizer, batch, 0.5)), autograph=False)
  losses = strategy.experimental_local_results(step(halves))
  pairs = list(zip(alone.trainable_variables, mirrored.trainable_variables))
  return {
      'replicas': len(losses),
      'loss': [loss, float(tf.add_n(losses))],
      'moved': float(max(np.max(abs(v.numpy() - old))
                         for v, old in zip(alone.trainable_variables, before))),
      'difference': float(max(np.max(abs(a.numpy() - b.numpy())) for a, b in pairs)),
  }


def main():
  processor = tf.config.list_physical_devices('CPU')[0]
  tf.config.set_logical_device_configuration(
      processor, [tf.config.LogicalDeviceConfiguration()] * 2)
  # Each graph runs once, which takes less time than to optimize it.
  tf.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})
  paths = sorted(pathlib.Path(sys.argv[1]).glob('*.keras'))
  for path in paths:
    _load(path)
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  print(json.dumps({'loaded': len(paths), 'replicas': [
      _compare(part, strategy) for part in json.loads(sys.argv[2])]}))


# Without AutoGraph: in a new process it would convert the code of every layer.
with ag_ctx.ControlStatusCtx(ag_ctx.Status.DISABLED):
  main()

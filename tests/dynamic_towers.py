"""Dynamic towers for tests, and a context that sets their gates."""
import contextlib
from unittest import mock

import numpy as np
import tensorflow as tf

from official_ext.losses import budgets
from official_ext.modeling.heads import dynamic_head
from official_ext.modeling.heads.dynamic_head import decisions
from official_ext.ops import routing
import reference
import spies

CHANNELS = 6
ALL_LEVELS = '34567'
SIZE = (60, 84)


def features(levels='345', batch=2, seed=0, size=SIZE, dtype=np.float64):
  """Returns features around 0, for which some gates open and others shut."""
  positive = reference.pyramid_inputs(dict.fromkeys(levels, CHANNELS), size, batch, seed)
  return {level: (2 * x - 1).astype(dtype) for level, x in positive.items()}


def make(inputs, seed=0, **options):
  """Returns a tower with random weights, of which some gates open and others shut."""
  options = {'num_filters': CHANNELS, 'num_blocks': 2, 'dtype': 'float64', 'name': 'tower',
             **options}
  tower = dynamic_head.DynamicTower(**options)
  tower(inputs)
  spies.randomize(tower, seed)
  for variable in tower.variables:
    if 'gate' in variable.name and 'bias' in variable.name:
      variable.assign_sub(tf.fill(variable.shape, tf.constant(0.6, variable.dtype)))
  return tower


def run(tower, inputs, training=False):
  """Returns the tower's outputs and what it records."""
  with routing.RoutingTape() as tape:
    outputs = tower(inputs, training=training)
  return outputs, tape.routing()


def same(found, expected, tolerance=1e-8):
  """Asserts that two dictionaries of arrays are equal."""
  assert sorted(found) == sorted(expected)
  for key, value in expected.items():
    np.testing.assert_allclose(found[key], value, tolerance, tolerance, err_msg=str(key))


def named(gates):
  """Returns gates of each block, as the reference has them, by their names on a tape."""
  return {f'tower/block_{number}/{path}_{level}': gate
          for number, decided in enumerate(gates) for (path, level), gate in decided.items()}


@contextlib.contextmanager
def forced_gates(decide):
  """Makes every gate return `decide(name, features)`, `[batch, height, width, 1]`."""

  def decided(all_paths, gates, budgets, features, options):
    del budgets, options
    return {(path, level): tf.cast(decide(gate.name, own), gate.dtype)
            for level, own in features.items()
            for paths, gate in ((paths, gates['_'.join(paths)]) for paths in all_paths)
            for path in decisions.existing_paths(paths, level, list(features))}

  with mock.patch.object(decisions, 'decide', decided):
    yield


def random_gates(name, features, shut=()):
  """Returns gates that differ between images, some of them 0; all are 0 for images `shut`."""
  rng = np.random.default_rng([sum(map(ord, name)), *features.shape[1:3]])
  gate = np.maximum(rng.uniform(-1, 1, [8, *features.shape[1:3], 1]), 0)[:len(features)]
  gate[list(shut)] = 0
  return gate


def _loss(tower, inputs, training=True, budget=0.0):
  with routing.RoutingTape() as tape:
    outputs = tower(inputs, training=training)
  rng = np.random.default_rng(7)
  loss = tf.add_n([tf.reduce_sum(tf.cast(x, tf.float64) * rng.normal(size=x.shape))
                   for x in outputs.values()])
  share = budgets.budget_loss(tape.routing(), 0, distance='absolute')
  return loss + budget * tf.cast(share, tf.float64)


def gradients(tower, *args, **options):
  """Returns gradients of a loss of all outputs and the budget, by the variable's name."""
  with tf.GradientTape() as tape:
    loss = _loss(tower, *args, **options)
  return {v.name: gradient for v, gradient in zip(
      tower.trainable_variables, tape.gradient(loss, tower.trainable_variables))}

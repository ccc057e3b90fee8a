"""Prints budget losses of two replicas with half a batch each, and of one device, as JSON.

There are two steps: in the second one a budget by the loss of images ranks these losses among
those of all images in the first.
"""
import json

import official_ext  # noqa: F401 (chooses Keras 2 before anything loads TensorFlow)

import numpy as np
import tensorflow as tf, tf_keras

from official_ext.configs import options
from official_ext.losses import budgets
from official_ext.losses import drawn_budget
from official_ext.modeling.layers import budget_control
from official_ext.modeling.layers import routed
from official_ext.ops import routing

GATES = np.random.default_rng(0).uniform(0.1, 1, [4, 6]).astype('float32')
LOSSES = np.array([[3.0, 1.0, 4.0, 1.5], [9.0, 2.0, 6.0, 5.0]], 'float32')
SIDES = [[10, 90], [400, 0], [70, 80], [30, 20]]
# Budgets of which a replica needs what the other one has.
BUDGETS = {
    'loss_aware': {'kind': 'loss_aware', 'path_similarity': {'weight': 1.0}},
    'mean_share': {'kind': 'drawn', 'reduction': 'mean_share', 'information': {'weight': 1.0}}}
BOXES = np.array([[[0, 0, side, side / 2] for side in sides] for sides in SIDES], 'float32')


class Backbone(routed.RoutedLayer):
  has_soft_cost = True
  gate_names = [f'{number}' for number in range(GATES.shape[1])]

  def build(self, shape):
    self.scale = self.add_weight('scale', [shape[-1]], initializer='ones')

  def call(self, gates):
    return gates * self.scale

  def total_cost(self, height, width):
    del height, width
    return 6.0


def make(name):
  model = tf_keras.Sequential([Backbone()])
  model.build([None, GATES.shape[1]])
  model.backbone = model.layers[0]
  config = options.BudgetConfig(weight=1.0)
  config.override(BUDGETS[name])
  budget = budgets.BudgetLosses(config)
  budget.attach(model)
  return model, budget


def step(model, budget, number, rows, share):
  """Returns losses and gradient of some rows, times their share as in Model Garden's trainer."""
  gates, boxes, losses = (tf.gather(x, rows) for x in (GATES, BOXES, LOSSES[number]))
  with tf.GradientTape() as tape:
    paths = model(gates)
    cost, zero = tf.reduce_sum(paths, 1), tf.constant(0.0)
    record = routing.Routing(
        dict(enumerate(tf.unstack(paths, axis=1))), cost, cost, zero, tf.constant(6.0), zero,
        soft_cost=cost)
    terms = budget.terms(
        {model.backbone.name: record}, budgets.Step((8, 8), tf.constant(number), 0.3),
        boxes, lambda: losses).losses
    total = tf.add_n(list(terms.values())) * share
  return ({name: loss * share for name, loss in terms.items()},
          tape.gradient(total, model.trainable_variables[0]))


def report(model, losses, gradient):
  result = {'losses': {name: float(loss) for name, loss in losses.items()},
            'gradient': gradient.numpy().tolist()}
  if hasattr(model, 'loss_history'):
    result['history'] = model.loss_history.numpy().tolist()
  return result


def compare(name, strategy):
  """Returns the reports of one device and of two replicas for a budget."""
  model, budget = make(name)
  with strategy.scope():
    mirrored, budget_of_two = make(name)

  @tf.function
  def two_replicas():

    def replica_step():
      index = tf.distribute.get_replica_context().replica_id_in_sync_group
      rows = 2 * index + tf.range(2)
      return [step(mirrored, budget_of_two, number, rows, 0.5) for number in (0, 1)][-1]

    return tf.nest.map_structure(
        lambda x: strategy.reduce('SUM', x, axis=None), strategy.run(replica_step))

  one = [step(model, budget, number, tf.range(4), 1.0) for number in (0, 1)][-1]
  two = two_replicas()
  return {'one_device': report(model, *one), 'two_replicas': report(mirrored, *two)}


def follow(strategy):
  """Returns what two replicas with half a batch each draw, and learn to follow a budget."""
  with strategy.scope():
    norm, shift = (layer(6, dtype='float32') for layer in (
        budget_control.BudgetNorm, budget_control.BudgetShift))
    norm.build(None)
    shift.build(None)

  @tf.function
  def two_replicas():

    def replica_step():
      index = tf.distribute.get_replica_context().replica_id_in_sync_group
      drawn = drawn_budget.draw(tf.constant(7, tf.int64), [0.1, 0.8], 0)
      with routing.spending(0.3):
        normalized, = norm([tf.gather(GATES, 2 * index + tf.range(2))], training=True)
        shift.control(tf.cast(normalized > 0.2 - tf.cast(index, tf.float32), tf.float32))
      return drawn

    return strategy.experimental_local_results(strategy.run(replica_step))

  drawn = [float(budget) for budget in two_replicas()]
  names = ('mean', 'variance', 'shifts')
  return {'drawn': drawn, **{name: variable.numpy().tolist() for name, variable in zip(
      names, (*norm.variables, *shift.variables))}}


def main():
  cpu = tf.config.list_physical_devices('CPU')[0]
  tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
  strategy = tf.distribute.MirroredStrategy(['CPU:0', 'CPU:1'])
  print(json.dumps({'replicas': strategy.num_replicas_in_sync,
                    'follow': follow(strategy),
                    **{name: compare(name, strategy) for name in BUDGETS}}))


if __name__ == '__main__':
  main()

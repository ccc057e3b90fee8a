"""Budgets of several parts: each equals what it gives alone, and sees its own part only."""
import types

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.configs import detectors
from official_ext.configs import options
from official_ext.losses import budgets
from official_ext.losses import path_similarity
from official_ext.losses import task_budgets
from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import routing

STEP = budgets.Step((30, 50), tf.constant(7))
BOXES = tf.constant([[[0, 0, 10, 20], [0, 0, 100, 90]], [[0, 0, 400, 9], [-1] * 4]], tf.float32)
PRESENCE = np.array([[1.0, 1, 0, 0], [0, 0, 0, 1]], np.float32)
COSTS = {'caddet': [3.0, 8.0], 'neck': [15.0, 20.0], 'solver': [40.0, 40.0], 'head': [7.0, 1.0]}
# Share of what gates can save, by hand: the solver has no gates, so that none can save its cost.
SHARES = {'backbone': [0.2, 0.7], 'decoder': [0.25, 0.5], 'head': [0.6, 0.0],
          'all': [13 / 40, 17 / 40]}
BOUNDS = {'caddet': (1.0, 11.0), 'neck': (10.0, 30.0), 'solver': (0.0, 50.0), 'head': (1.0, 11.0)}


class Part(routed.RoutedLayer):
  """Records what the tables above say."""

  def __init__(self, name, gates, per_position=False):
    super().__init__(name=name)
    self.gates, self.cost = tf.Variable(gates), tf.Variable(COSTS[name])
    self.has_soft_cost, self.decides_for_images = name == 'caddet', not per_position

  @property
  def gate_names(self):
    return [f'{number}' for number in range(self.gates.shape[1])]

  def total_cost(self, height, width):
    return 0.01 * height * width

  def routing(self):
    gates = self.gates if self.decides_for_images else self.gates[:, None, None, :, None]
    minimum, maximum = BOUNDS[self.name]
    return routing.Routing(
        gates=dict(zip(self.gate_names, tf.unstack(gates, axis=-1 if self.decides_for_images
                                                   else 3))),
        executed=self.cost - 0.5, expected=self.cost, minimum=tf.constant(minimum),
        maximum=tf.constant(maximum), all_branches=tf.constant(maximum),
        soft_cost=self.cost if self.has_soft_cost else None)


def make(budget=(), listed=None, parts=('caddet', 'neck', 'solver', 'head')):
  """Returns a detector with some parts, the budgets of its task, and what its layers record."""
  layers = {'caddet': Part('caddet', [[0.9, 0.1], [0.2, 0.3]]),
            'neck': Part('neck', [[1.0, 0.0, 0.5], [0.0, 1.0, 0.25]]),
            'solver': Part('solver', np.zeros([2, 0], np.float32)),
            'head': Part('head', [[0.5], [0.25]], per_position=True)}
  layers = {name: layer for name, layer in layers.items() if name in parts}
  model = tf_keras.Model()
  model.backbone = layers.get('caddet', tf_keras.layers.Layer())
  model.decoder = tf_keras.Model()
  model.decoder.parts = [layers[name] for name in ('neck', 'solver') if name in layers]
  model.towers = [layers['head']] if 'head' in layers else []
  config = detectors.RetinaNetTaskConfig()
  config.override({'budget': None if budget is None else dict(budget), 'budgets': listed})
  own = task_budgets.TaskBudgets(config)
  own.attach(model)
  return layers, own, {name: layer.routing() for name, layer in layers.items()}


def terms_of(budget=(), listed=(), boxes=BOXES):
  _, own, records = make(budget, listed)
  return own.terms(records, STEP, boxes, lambda: tf.constant([2.0, 1.0]))


@pytest.mark.parametrize('part', [*SHARES])
def test_a_budget_sees_its_part_only(part):
  terms = terms_of({'weight': 3.0, 'part': part, 'target': 0.4})
  np.testing.assert_allclose(
      terms.losses['budget'], 3 * np.mean((np.array(SHARES[part]) - 0.4)**2), rtol=1e-5)
  np.testing.assert_allclose(terms.shares[f'{part}/expected'], SHARES[part], rtol=1e-5)
  np.testing.assert_allclose(terms.shares[f'{part}/target'], [0.4, 0.4])
  assert np.all(terms.shares[f'{part}/executed'] < terms.shares[f'{part}/expected'])


def test_several_budgets_each_equal_what_they_are_alone():
  listed = [{'part': 'backbone', 'kind': 'scale_aware', 'ratio': 0.1, 'weight': 2.0,
             'path_similarity': {'weight': 0.5}},
            {'part': 'decoder', 'weight': 1.0, 'target': 0.5},
            {'part': 'head', 'weight': 0.4, 'target': 0.0, 'distance': 'absolute'}]
  layers, own, _ = make(listed=listed)
  names = ['budget/backbone', 'path_similarity/backbone', 'budget/decoder', 'budget/head']
  with tf.GradientTape() as tape:
    terms = own.terms({name: layer.routing() for name, layer in layers.items()}, STEP, BOXES, None)
    total = tf.add_n(list(terms.losses.values()))
  assert own.loss_names == list(terms.losses) == names
  assert own.share_names == list(terms.shares)
  total_cost = 0.01 * 30 * 50
  by_hand = {
      'budget/backbone': 2 * np.mean((np.array(COSTS['caddet']) / total_cost - [0.2, 0.1])**2),
      'path_similarity/backbone': 0.5 * path_similarity.loss(layers['caddet'].gates, PRESENCE),
      'budget/decoder': np.mean((np.array(SHARES['decoder']) - 0.5)**2),
      'budget/head': 0.4 * np.mean(SHARES['head'])}
  for name, loss in by_hand.items():
    np.testing.assert_allclose(terms.losses[name], loss, rtol=1e-5, err_msg=name)
  for one in listed:
    for name, loss in terms_of(one).losses.items():
      np.testing.assert_allclose(terms.losses[f'{name}/{one["part"]}'], loss, rtol=1e-6)
  # Each cost is pulled by its own budget: d/dc of weight * mean(|c - 1| / 10), and of the square.
  pulls = tape.gradient(total, [layers[name].cost for name in ('head', 'neck')])
  np.testing.assert_allclose(pulls[0][0], 0.4 / 2 / 10, rtol=1e-5)
  np.testing.assert_allclose(pulls[1], [2 * (0.25 - 0.5) / 2 / 20, 0], rtol=1e-5)
  assert terms.target is None and own.target is None


def test_parts_draw_one_budget():
  drawn = {'kind': 'drawn', 'weight': 1.0}
  with pytest.raises(checks.FieldError, match=r'task.budgets\[1\].full_every is 3, and .* is 2'):
    make(listed=[{'part': 'head', **drawn}, {'part': 'decoder', **drawn, 'full_every': 3}])
  with pytest.raises(checks.FieldError, match=r'budgets\[0\].kind is .* takes a budget'):
    make(listed=[{'part': 'backbone', 'kind': 'drawn'}], parts=('neck',))


def test_path_similarity_sees_the_supernet_only_or_else_the_gates_for_whole_images():
  similarity = {'path_similarity': {'weight': 1.0}}
  for part, layer in (('all', 'caddet'), ('backbone', 'caddet'), ('decoder', 'neck')):
    layers, own, records = make({'part': part, **similarity})
    loss = own.terms(records, STEP, BOXES, None).losses['path_similarity']
    np.testing.assert_allclose(loss, path_similarity.loss(layers[layer].gates, PRESENCE), rtol=1e-6)
  with pytest.raises(ValueError, match='no gate decides for a whole image in head'):
    make({'part': 'head', **similarity})


def test_evaluation_without_boxes_has_what_needs_none():
  listed = [{'part': 'backbone', 'kind': 'loss_aware', 'weight': 2.0},
            {'part': 'decoder', 'weight': 1.0}]
  assert list(terms_of(listed=listed).losses) == ['budget/backbone', 'budget/decoder']
  without = terms_of(listed=listed, boxes=None)
  assert list(without.losses) == ['budget/decoder']
  assert not any(name.startswith('backbone') for name in without.shares)


@pytest.mark.parametrize('budget, listed, parts, message', [
    ({'weight': 1.0}, [], [],
     r'parts of this model with gates: none\. Change task\.budget\.weight or'),
    ({'weight': 1.0}, [], ['solver'], 'gates: none'),
    ({'weight': 1.0, 'part': 'head'}, [], ['caddet', 'neck'],
     r'with gates: backbone, decoder\. Change task\.budget\.part or task\.model\.'),
    ({}, [{'part': 'decoder', 'weight': 1.0}], ['head', 'solver'],
     r'with gates: head\. Change task\.budgets\[0\]\.part'),
    ({'weight': 1.0}, [{'part': 'head', 'weight': 1.0}], ['head'],
     'Change task.budget.weight to 0'),
    ({'path_similarity': {'weight': 1.0}}, [{'part': 'head', 'weight': 1.0}], ['head'],
     'Change task.budget.path_similarity.weight to 0'),
    ({'information': {'weight': 1.0}}, [{'part': 'head', 'weight': 1.0}], ['head'],
     'Change task.budget.information.weight to 0'),
    ({}, [{'part': 'head', 'weight': 1.0}] * 2, ['head'], "two budgets of the part 'head'"),
    ({}, [{'part': 'all', 'kind': 'fixed'}, {'part': 'backbone', 'kind': 'loss_aware'}], ['caddet'],
     "two budgets of the part 'backbone'"),
    ({}, [{'prat': 'head'}], ['head'], r'task\.budgets\[0\]\.prat is not known'),
    ({}, [{'path_similarity': {'mean': 1}}], ['head'],
     r'budgets\[0\]\.path_similarity\.mean is not'),
    ({}, [{'part': 'head', 'target': 2.0}], ['head'], r'Change task\.budgets\[0\]\.target'),
    ({}, [{'kind': 'fixed', 'weight': 1.0}], ['neck'], r'Change task\.budgets\[0\]\.kind or'),
    (None, [], ['head'], 'task.budget is null'),
    ({}, {'part': 'head'}, ['head'], 'task.budgets is no list'),
    ({}, [3], ['head'], r'task\.budgets\[0\] is 3; it must be a record'),
    ({}, [{'part': 'head', 'information': None}], ['head'],
     r'task\.budgets\[0\]\.information is None; it must be a record'),
    ({}, [{'part': 'head', 'weight': 'much'}], ['head'], r'Change task\.budgets\[0\]\.weight'),
])
def test_budgets_that_do_not_fit_are_refused_with_the_field(budget, listed, parts, message):
  with pytest.raises(ValueError, match=message):
    make(budget, listed, parts)


def test_what_needs_objects_and_whose_bounds_count():
  def config(**options_of_task):
    found = detectors.RetinaNetTaskConfig()
    found.override(options_of_task)
    return found

  plain = {'part': 'head', 'weight': 1.0}
  scales = {'part': 'backbone', 'weight': 1.0, 'kind': 'scale_aware', 'scale_bounds': [9.0]}
  assert not task_budgets.needs_objects(config(budget=plain))
  assert not task_budgets.needs_objects(config(budgets=[plain]))
  assert task_budgets.needs_objects(config(budgets=[plain, scales]))
  assert task_budgets.scale_bounds(config(budgets=[plain, scales])) == [9.0]
  assert task_budgets.scale_bounds(config()) == list(options.SCALE_BOUNDS)


def test_layers_are_parted_as_people_name_them():
  layers = {name: Part(name, [[1.0]]) for name in ('caddet', 'neck', 'head')}
  model = tf_keras.Model()
  model.backbone, model.decoder = layers['caddet'], layers['neck']
  model.anything = [layers['head']]
  assert routed.layers_by_part(model) == {
      'backbone': [layers['caddet']], 'decoder': [layers['neck']], 'head': [layers['head']]}
  assert routed.layers_by_part(types.SimpleNamespace(submodules=(), decoder=None)) == {
      'backbone': [], 'decoder': [], 'head': []}

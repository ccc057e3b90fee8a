"""Losses of budgets: their values, when they are on, and which options are refused."""
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.configs import options as configs
from official_ext.losses import budgets
from official_ext.losses import information
from official_ext.losses import path_similarity
from official_ext.modeling.layers import routed
from official_ext.ops import checks
from official_ext.ops import routing

BOXES = tf.constant([[[0, 0, 10, 20], [0, 0, 100, 90]], [[-1] * 4] * 2,
                     [[0, 0, 400, 9], [-1] * 4]], tf.float32)
SIZE = (30, 50)
TRAINING, EVALUATION = budgets.Step(SIZE, tf.constant(7)), budgets.Step(SIZE)
TOTAL = 2.0 * 30 * 50


class Backbone(routed.RoutedLayer):
  """Has gates and a cost that are variables, so that their gradients can be looked at."""
  has_soft_cost = True
  gate_names = ['0', '1', '2']

  def __init__(self):
    super().__init__(name='caddet')
    self.gates = tf.Variable([[0.9, 0.1, 0.0], [0.2, 0.3, 0.4], [0.0, 0.5, 0.5]])
    self.cost = tf.Variable([0.05 * TOTAL, 0.3 * TOTAL, 0.1 * TOTAL])

  def total_cost(self, height, width):
    return 2.0 * height * width

  def records(self):
    """Returns what a tape would hold of a batch."""
    zero = tf.zeros([3])
    return {self.name: routing.Routing(
        gates={f'{k}': gate for k, gate in enumerate(tf.unstack(self.gates, axis=1))},
        executed=zero, expected=self.cost, minimum=tf.constant(0.0), maximum=tf.constant(TOTAL),
        all_branches=tf.constant(TOTAL), soft_cost=self.cost)}


class Detector(tf_keras.Model):

  def __init__(self):
    super().__init__()
    self.backbone = Backbone()


def attached(**options):
  model, budget = Detector(), budgets.BudgetLosses(configs.BudgetConfig(**options))
  budget.attach(model)
  return model, budget


def unused_image_losses():
  raise AssertionError('only a loss-aware budget needs the losses of single images')


@pytest.mark.parametrize('kind, targets', [
    ('fixed', [0.05] * 3), ('scale_aware', [0.1, 0.05, 0.05])])
def test_targets_that_are_shares_of_the_cost_of_the_backbone(kind, targets):
  model, budget = attached(weight=2.0, kind=kind)
  with tf.GradientTape() as tape:
    terms = budget.terms(model.backbone.records(), TRAINING, BOXES, unused_image_losses)
  distance = np.array([0.05, 0.3, 0.1]) - targets
  assert list(terms.losses) == budget.names == ['budget']
  np.testing.assert_allclose(terms.losses['budget'], 2 * np.mean(distance**2), rtol=1e-5)
  np.testing.assert_allclose(terms.target, np.array(targets) * TOTAL, rtol=1e-6)
  gradient = tape.gradient(terms.losses['budget'], model.backbone.cost)
  np.testing.assert_allclose(gradient, 2 * 2 / 3 * distance / TOTAL, atol=1e-10)


def test_share_is_the_budget_of_every_routed_network():
  model, budget = attached(weight=0.5, target=0.25)
  records = model.backbone.records()
  terms = budget.terms(records, TRAINING, None, unused_image_losses)
  np.testing.assert_allclose(
      terms.losses['budget'], 0.5 * budgets.budget_loss(records['caddet'], 0.25), rtol=1e-6)
  assert terms.target is None


def test_path_similarity_beside_a_budget_and_without_one():
  similarity = configs.PathSimilarityConfig(weight=3.0, minimum=0.5, maximum=0.9)
  presence = tf.constant([[1.0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
  for options, names in (({}, []), ({'weight': 1.0, 'kind': 'scale_aware'}, ['budget'])):
    model, budget = attached(path_similarity=similarity, **options)
    terms = budget.terms(model.backbone.records(), TRAINING, BOXES, unused_image_losses)
    assert list(terms.losses) == budget.names == [*names, 'path_similarity']
    np.testing.assert_allclose(
        terms.losses['path_similarity'],
        3 * path_similarity.loss(model.backbone.gates, presence, 0.5, 0.9), rtol=1e-6)


def test_information_is_taken_off_the_loss_from_its_own_start_on():
  reward = configs.InformationConfig(weight=3.0, start_step=7)
  model, budget = attached(information=reward)
  records = model.backbone.records()
  expected = -3 * float(information.information(records))
  assert expected < -0.01 and budget.names == ['information']
  for step, loss in ((TRAINING, expected), (EVALUATION, expected),
                     (budgets.Step(SIZE, tf.constant(6)), 0)):
    terms = budget.terms(records, step, None, unused_image_losses)
    np.testing.assert_allclose(terms.losses['information'], loss, rtol=1e-6)


def test_information_needs_a_gate(monkeypatch):
  monkeypatch.setattr(Backbone, 'gate_names', [])
  monkeypatch.setattr(Backbone, 'has_budget_input', True)
  with pytest.raises(checks.ArgumentError, match='caddet decides by no gate') as error:
    attached(kind='drawn', weight=1.0, reduction='mean_share',
             information=configs.InformationConfig(weight=1.0))
  assert error.value.argument == 'information.weight'


def test_before_the_start_both_losses_are_off():
  model, budget = attached(weight=1.0, kind='scale_aware', start_step=7,
                           path_similarity=configs.PathSimilarityConfig(weight=1.0))

  def losses(step):
    with tf.GradientTape() as tape:
      terms = budget.terms(model.backbone.records(), budgets.Step(SIZE, tf.constant(step)),
                           BOXES, unused_image_losses)
      total = tf.add_n(list(terms.losses.values()))
    gradients = tape.gradient(total, [model.backbone.cost, model.backbone.gates])
    return float(total), [float(tf.reduce_max(tf.abs(gradient))) for gradient in gradients]

  assert losses(6) == (0, [0, 0])
  assert losses(7)[0] > 0 and min(losses(7)[1]) > 0
  terms = budget.terms(model.backbone.records(), EVALUATION, BOXES, unused_image_losses)
  assert min(float(loss) for loss in terms.losses.values()) > 0


def test_loss_aware_budget_ranks_images_and_remembers_them_in_training_only(tmp_path):
  model, budget = attached(weight=1.0, kind='loss_aware', ratio=0.1)
  records, losses = model.backbone.records(), tf.constant([4.0, 2.0, 3.0])

  def targets(step):
    return budget.terms(records, step, BOXES, lambda: losses).target / TOTAL

  for step in (EVALUATION, TRAINING):
    np.testing.assert_allclose(targets(step), [0.25] * 3, rtol=1e-6)
  np.testing.assert_array_equal(model.loss_history[-3:], losses)
  assert np.all(model.loss_history[:-3] == -1)
  expected = 0.1 * (1 + 3 * np.array([2, 0, 1]) / 3)
  for step in (EVALUATION, TRAINING):  # A remembered loss is not below itself.
    np.testing.assert_allclose(targets(step), expected, rtol=1e-6)
  path = tf.train.Checkpoint(model=model).save(str(tmp_path / 'ckpt'))
  restored, again = attached(weight=1.0, kind='loss_aware', ratio=0.1)
  tf.train.Checkpoint(model=restored).read(path).assert_existing_objects_matched()
  np.testing.assert_array_equal(restored.loss_history, model.loss_history)
  np.testing.assert_array_equal(*(
      one.terms(records, EVALUATION, BOXES, lambda: losses).target for one in (again, budget)))


def test_which_budgets_need_objects():
  budget = configs.BudgetConfig
  assert not budgets.needs_objects(budget(weight=1.0))
  assert not budgets.needs_objects(budget(weight=1.0, kind='fixed'))
  assert not budgets.needs_objects(budget(kind='scale_aware'))
  assert budgets.needs_objects(budget(weight=1.0, kind='scale_aware'))
  assert budgets.needs_objects(budget(weight=1.0, kind='loss_aware'))
  assert budgets.needs_objects(budget(path_similarity=configs.PathSimilarityConfig(weight=1.0)))


@pytest.mark.parametrize('options, argument', [
    ({'kind': 'dynamic'}, 'kind'),
    ({'kind': 'fixed', 'ratio': 1.5}, 'ratio'),
    ({'kind': 'fixed', 'ratio': 0.0}, 'ratio'),
    ({'start_step': -1}, 'start_step'),
    ({'information': configs.InformationConfig(start_step=-1)}, 'information.start_step'),
    ({'scale_bounds': [64.0, 64.0]}, 'scale_bounds'),
    ({'path_similarity': configs.PathSimilarityConfig(minimum=0.9, maximum=0.8)},
     'path_similarity.minimum'),
    ({'target': 1.5}, 'target'),
    ({'reduction': 'median'}, 'reduction'),
    ({'distance': 'cubed'}, 'distance'),
    ({'part': 'neck'}, 'part'),
    ({'part': 'head', 'kind': 'fixed'}, 'part'),
    ({'weight': 'much'}, 'weight'),
    ({'weight': float('nan')}, 'weight'),
    ({'weight': -0.5}, 'weight'),
    ({'target': None}, 'target'),
    ({'draw_range': 0.5}, 'draw_range'),
    ({'draw_range': ['low', 'high']}, 'draw_range'),
    ({'shrink_steps': None}, 'shrink_steps'),
    ({'full_every': 0.5}, 'full_every'),
    ({'scale_bounds': None}, 'scale_bounds'),
    ({'information': None}, 'information'),
    ({'information': configs.InformationConfig(weight=0.1), 'weight': 1.0}, 'reduction'),
    ({'information': configs.InformationConfig(weight=0.1), 'weight': 1.0, 'kind': 'drawn',
      'reduction': 'sum'}, 'reduction'),
    ({'information': configs.InformationConfig(weight=-0.5)}, 'information.weight'),
    ({'path_similarity': configs.PathSimilarityConfig(weight=-0.5)}, 'path_similarity.weight'),
])
def test_options_of_another_type_or_out_of_range_are_refused_by_name(options, argument):
  with pytest.raises(checks.ArgumentError, match=argument) as error:
    budgets.BudgetLosses(configs.BudgetConfig(**options))
  assert error.value.argument == argument


def test_a_model_that_does_not_fit_is_refused():
  model = Detector()
  model.backbone = tf_keras.layers.Layer()
  for options, argument in (
      ({'weight': 1.0, 'kind': 'fixed'}, 'kind'), ({'weight': 1.0}, 'weight'),
      ({'weight': 1.0, 'part': 'head'}, 'part'),
      ({'path_similarity': configs.PathSimilarityConfig(weight=1.0)}, 'path_similarity.weight'),
      ({'information': configs.InformationConfig(weight=1.0)}, 'information.weight')):
    with pytest.raises(checks.ArgumentError, match=argument) as error:
      budgets.BudgetLosses(configs.BudgetConfig(**options)).attach(model)
    assert error.value.argument == argument


@pytest.mark.slow
def test_two_replicas_have_the_losses_gradients_and_history_of_one_device():
  tests = pathlib.Path(__file__).resolve().parents[1]
  done = subprocess.run(
      [sys.executable, tests / 'processes' / 'budget_replicas.py'], capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(tests.parent)}, timeout=300, check=False)
  assert done.returncode == 0, done.stderr[-2000:]
  report = json.loads(done.stdout.strip().splitlines()[-1])
  assert report['replicas'] == 2
  for name in ('loss_aware', 'mean_share'):
    one, two = report[name]['one_device'], report[name]['two_replicas']
    assert min(map(abs, one['losses'].values())) > 1e-3 and np.max(np.abs(one['gradient'])) > 1e-3
    np.testing.assert_allclose(
        list(one['losses'].values()), list(two['losses'].values()), rtol=1e-5)
    np.testing.assert_allclose(one['gradient'], two['gradient'], rtol=1e-5, atol=1e-7)
  one, two = (report['loss_aware'][devices]['history']
              for devices in ('one_device', 'two_replicas'))
  np.testing.assert_allclose(one, two, rtol=1e-6)
  assert len(set(one[-8:])) == 8 and one[-9] == -1
  _check_follow(report['follow'])


def _check_follow(follow):
  """Replicas draw the same budget, and the averages and shifts are means of what each one found."""
  assert follow['drawn'][0] == follow['drawn'][1]
  halves = np.random.default_rng(0).uniform(0.1, 1, [2, 2, 6])
  # Two values that differ are one deviation above and below their mean.
  means, variances = halves.mean(1), halves.var(1)
  np.testing.assert_allclose(follow['mean'], [means.mean(0)] * 11, 1e-5)
  np.testing.assert_allclose(follow['variance'], [variances.mean(0)] * 11, 1e-4)
  deviations = (halves - means[:, None]) / np.sqrt(variances[:, None] + 1e-5)
  shares = [(deviations[0] > 0.2).mean(0), (deviations[1] > -0.8).mean(0)]
  error = 0.3 - np.mean(shares, 0)
  np.testing.assert_allclose(follow['shifts'][3], 0.5 * error, 1e-4, 1e-6)
  np.testing.assert_allclose(follow['shifts'][5], 0.125 * error, 1e-4, 1e-6)

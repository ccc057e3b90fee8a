"""Scale presence, targets and losses of CADDet's budgets against numbers calculated by hand."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.losses import scale_budget
from official_ext.ops import checks


def box(height, width, top=3, left=5):
  return [top, left, top + height, left + width]


PADDING = [-1, -1, -1, -1]


@pytest.mark.parametrize('sizes, presence', [
    ([(1, 1)], [1, 0, 0, 0]), ([(64, 10)], [1, 0, 0, 0]), ([(65, 10)], [0, 1, 0, 0]),
    ([(10, 150)], [0, 1, 0, 0]), ([(151, 150)], [0, 0, 1, 0]), ([(20, 360)], [0, 0, 1, 0]),
    ([(361, 1)], [0, 0, 0, 1]), ([(5000, 1)], [0, 0, 0, 1]),
    ([(10, 10), (12, 20), (500, 400)], [1, 0, 0, 1]), ([], [0, 0, 0, 0]),
    ([(0, 100)], [0, 0, 0, 0]), ([(100, 0), (0, 0)], [0, 0, 0, 0])])
def test_the_longer_side_of_a_box_with_area_sets_its_scale(sizes, presence):
  boxes = ([box(*size) for size in sizes] + 3 * [PADDING])[:3]
  found = scale_budget.scales_present(tf.constant([boxes], tf.float32))
  np.testing.assert_array_equal(found, [presence])
  assert found.dtype == tf.float32


def test_scales_with_other_bounds_and_dtypes():
  boxes = tf.constant([[box(8, 2), box(9, 2)], [box(33, 2), PADDING]], tf.bfloat16)
  np.testing.assert_array_equal(scale_budget.scales_present(boxes, [8, 32]), [[1, 1, 0], [0, 0, 1]])


@pytest.mark.parametrize('bounds', [[], [0, 3], [4, 4], [5, 2]])
def test_bounds_that_do_not_ascend_are_refused(bounds):
  with pytest.raises(checks.ArgumentError, match='bounds are'):
    scale_budget.scales_present(tf.zeros([1, 2, 4]), bounds)


def test_the_target_is_the_same_again_for_every_scale():
  presence = tf.constant([[0, 0, 0, 0], [0, 1, 0, 0], [1, 0, 0, 1], [1, 1, 1, 1]], tf.float32)
  np.testing.assert_allclose(scale_budget.scale_target(presence, 0.05), [0.05, 0.05, 0.1, 0.2])


def test_cost_loss_and_its_gradient_by_hand():
  cost, target = tf.Variable([0.3, 0.2, 0.1]), tf.constant([0.1, 0.2, 0.2])
  with tf.GradientTape() as tape:
    loss = scale_budget.cost_loss(cost, target)
  np.testing.assert_allclose(loss, (0.04 + 0 + 0.01) / 3, rtol=1e-5)
  np.testing.assert_allclose(tape.gradient(loss, cost), [0.4 / 3, 0, -0.2 / 3], atol=1e-7)
  assert float(scale_budget.cost_loss(target, target)) == 0
  assert scale_budget.cost_loss(tf.cast(cost, tf.bfloat16), target).dtype == tf.float32


def test_the_loss_target_grows_with_the_rank_in_the_history():
  history = tf.constant([-1, -1, 1.0, 2.0, 3.0, 4.0])
  target = scale_budget.loss_target(tf.constant([0.5, 2.0, 2.5, 9.0]), history, 0.1, 4)
  np.testing.assert_allclose(target, [0.1, 0.1 * (1 + 3 / 4), 0.1 * (1 + 6 / 4), 0.4], rtol=1e-6)
  empty = scale_budget.empty_history(5)
  np.testing.assert_allclose(
      scale_budget.loss_target(tf.constant([7.0, 0.0]), empty, 0.1, 4), [0.25, 0.25], rtol=1e-6)
  losses = tf.Variable([1.0])
  with tf.GradientTape() as tape:
    target = scale_budget.loss_target(losses, history, 0.1, 4)
  assert tape.gradient(target, losses) is None


def test_history_keeps_the_latest_losses():
  history = scale_budget.empty_history(3)
  for losses, expected in (([1.0], [-1, -1, 1]), ([2.0, 3.0], [1, 2, 3]),
                           ([4.0, 5.0, 6.0, 7.0], [5, 6, 7])):
    history = scale_budget.remember(history, tf.constant(losses))
    np.testing.assert_array_equal(history, expected)


def test_the_cost_loss_of_no_images_is_zero():
  assert scale_budget.cost_loss(tf.zeros([0]), tf.zeros([0])).numpy() == 0

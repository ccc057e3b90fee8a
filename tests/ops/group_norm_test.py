"""Group norm against plain NumPy, over maps, masks and lists of positions."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import checks
from official_ext.ops import group_norm
import reference

CHANNELS, GROUPS = 12, 4


def _random(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape)


def _mask(batch=3, height=5, width=7):
  """Three images: with half of the positions active, with one, and with none."""
  mask = np.random.default_rng(1).uniform(size=[batch, height, width, 1]) < 0.5
  mask[1:] = False
  mask[1, -1, -1] = True
  return mask


GAMMA, BETA = 1 + 0.3 * _random(CHANNELS, seed=2), _random(CHANNELS, seed=3)


def _expected(x, mask, groups=GROUPS, gamma=GAMMA, beta=BETA, epsilon=1e-5):
  return reference.group_norm(x, mask, gamma, beta, groups, epsilon)


def _rows(x, mask):
  """`group_norm_rows` of the active positions, scattered back into a map."""
  index = tf.where(mask[..., 0])
  rows = group_norm.group_norm_rows(
      tf.gather_nd(x, index), tf.cast(index[:, 0], tf.int32), len(x), GAMMA, BETA, GROUPS)
  return tf.scatter_nd(index, rows, tf.shape(x, tf.int64))


def _listed(x, mask):
  """`group_norm_at` of the active positions, and 0 at the others."""
  result = group_norm.group_norm_at(
      x, tf.cast(tf.where(mask[..., 0]), tf.int32), GAMMA, BETA, GROUPS)
  return tf.where(mask, result, 0)


@pytest.mark.parametrize('channels, groups', [(256, 32), (88, 22), (64, 32), (12, 12), (7, 7),
                                              (37, 1), (34, 17), (1, 1)])
def test_number_of_groups(channels, groups):
  assert group_norm.num_groups_of(channels) == groups


@pytest.mark.parametrize('groups', [1, 4])
def test_scale_and_shift_normalize_the_map_with_its_bias(groups):
  x, bias = 3 * _random(3, 5, 7, CHANNELS), _random(CHANNELS, seed=4)
  scale, shift = group_norm.scale_and_shift(tf.constant(x), bias, GAMMA, BETA, groups)
  assert scale.shape == shift.shape == [3, 1, 1, CHANNELS]
  np.testing.assert_allclose(
      x * scale + shift, _expected(x + bias, np.ones([3, 5, 7, 1], bool), groups), 1e-10, 1e-10)
  with pytest.raises(ValueError, match='num_groups is 5'):
    group_norm.scale_and_shift(tf.constant(x), bias, GAMMA, BETA, 5)


@pytest.mark.parametrize('masked', [False, True])
@pytest.mark.parametrize('groups', [1, 3, 4, 12])
def test_normalizes_each_group_of_each_image(groups, masked):
  x, mask = 3 * _random(3, 5, 7, CHANNELS) + _random(CHANNELS), _mask()
  result = group_norm.group_norm(
      tf.constant(x), GAMMA, BETA, groups, 1e-3, mask if masked else None)
  expected = _expected(x, mask if masked else np.ones_like(mask), groups, epsilon=1e-3)
  np.testing.assert_allclose(result, expected, 1e-10, 1e-10)


@pytest.mark.parametrize('norm', [_rows, _listed])
def test_a_list_of_positions_gives_the_same(norm):
  x, mask = 3 * _random(3, 5, 7, CHANNELS) + _random(CHANNELS), _mask()
  for order in ([0, 1, 2], [2, 0, 1], [1, 2, 0]):
    result = norm(tf.constant(x[order]), mask[order])
    np.testing.assert_allclose(result, _expected(x, mask)[order], 1e-10, 1e-10)
  assert not np.any(norm(tf.constant(x), np.zeros_like(mask)))


@pytest.mark.parametrize('masked', [False, True])
def test_mean_much_larger_than_deviation(masked):
  x = (_random(2, 20, 30, CHANNELS) + 1000 * _random(CHANNELS)).astype(np.float32)
  # One channel per group, because in larger groups the channels' means make the deviation large.
  mask = np.random.default_rng(1).uniform(size=[2, 20, 30, 1]) < 0.3
  result = group_norm.group_norm(
      tf.constant(x), GAMMA, BETA, CHANNELS, mask=mask if masked else None)
  expected = _expected(x, mask if masked else np.ones_like(mask), CHANNELS)
  np.testing.assert_allclose(result, expected, 0, 1e-3)
  x = (_random(2, 20, 30, CHANNELS) + 10).astype(np.float32)
  for result in (_rows(tf.constant(x), mask), _listed(tf.constant(x), mask),
                 group_norm.group_norm(tf.constant(x), GAMMA, BETA, GROUPS, mask=mask)):
    np.testing.assert_allclose(result, _expected(x, mask), 0, 5e-6)


@pytest.mark.parametrize('dtype, tolerance', [
    ('float32', 2e-6), ('float16', 4e-3), ('bfloat16', 3e-2)])
def test_keeps_the_dtype_and_sums_in_float32(dtype, tolerance):
  # 6000 positions, because a sum in bfloat16 stops growing long before.
  x, mask = tf.cast(_random(1, 60, 100, CHANNELS) + 2, dtype), np.ones([1, 60, 100, 1], bool)
  expected = _expected(tf.cast(x, tf.float64).numpy(), mask)
  for result in (group_norm.group_norm(x, GAMMA, BETA, GROUPS),
                 group_norm.group_norm(x, GAMMA, BETA, GROUPS, mask=mask),
                 _rows(x, mask), _listed(x, mask)):
    assert result.dtype == dtype
    np.testing.assert_allclose(tf.cast(result, tf.float64), expected, tolerance, tolerance)


def _gradients(function, inputs, weight):
  with tf.GradientTape() as tape:
    tape.watch(inputs)
    loss = tf.reduce_sum(weight * function(*inputs))
  return tape.gradient(loss, inputs)


@pytest.mark.parametrize('form', ['map', 'mask', 'rows', 'listed'])
def test_gradients_against_finite_differences(form):
  x, mask, weight = _random(3, 3, 4, CHANNELS), _mask(3, 3, 4), _random(3, 3, 4, CHANNELS, seed=4)
  index = tf.where(mask[..., 0])

  def rows(x, gamma, beta):
    result = group_norm.group_norm_rows(
        tf.gather_nd(x, index), tf.cast(index[:, 0], tf.int32), 3, gamma, beta, GROUPS)
    return tf.scatter_nd(index, result, x.shape)

  function = {
      'map': lambda *inputs: group_norm.group_norm(*inputs, GROUPS),
      'mask': lambda *inputs: group_norm.group_norm(*inputs, GROUPS, mask=mask),
      'rows': rows,
      'listed': lambda *inputs: tf.where(mask, group_norm.group_norm_at(
          inputs[0], tf.cast(index, tf.int32), *inputs[1:], GROUPS), 0)}[form]
  used = np.ones_like(mask) if form == 'map' else mask
  inputs = [x, GAMMA, BETA]
  gradients = _gradients(function, [tf.constant(value) for value in inputs], weight)
  for number, gradient in enumerate(gradients):
    direction = _random(*inputs[number].shape, seed=5)
    ends = []
    for step in (1e-5, -1e-5):
      moved = [*inputs]
      moved[number] = moved[number] + step * direction
      ends.append(np.sum(weight * _expected(moved[0], used, gamma=moved[1], beta=moved[2])))
    np.testing.assert_allclose(
        np.sum(direction * tf.convert_to_tensor(gradient)), (ends[0] - ends[1]) / 2e-5, 1e-6)


def test_nothing_comes_from_outside_the_mask():
  x, mask = _random(3, 5, 7, CHANNELS), _mask()
  poisoned = np.where(mask, x, np.nan)
  weight = _random(3, 5, 7, CHANNELS, seed=4)
  function = lambda *inputs: group_norm.group_norm(*inputs, GROUPS, mask=mask)  # noqa: E731
  for first, second in zip(
      *(_gradients(function, [tf.constant(value) for value in (values, GAMMA, BETA)], weight)
        for values in (x, poisoned))):
    np.testing.assert_array_equal(first, second)
  np.testing.assert_array_equal(
      function(tf.constant(x), GAMMA, BETA), function(tf.constant(poisoned), GAMMA, BETA))
  assert np.any(np.isnan(group_norm.group_norm(tf.constant(poisoned), GAMMA, BETA, GROUPS)))


def test_a_listed_statistic_sees_nothing_else():
  x, mask = _random(3, 5, 7, CHANNELS), _mask()
  np.testing.assert_array_equal(
      _listed(tf.constant(x), mask), _listed(tf.constant(np.where(mask, x, np.nan)), mask))


@pytest.mark.parametrize('compiled', [False, True])
def test_unknown_sizes_and_no_images(compiled):
  traced = tf.function(
      lambda x, mask: (group_norm.group_norm(x, GAMMA, BETA, GROUPS),
                       group_norm.group_norm(x, GAMMA, BETA, GROUPS, mask=mask)),
      autograph=False, jit_compile=compiled, input_signature=[
          tf.TensorSpec([None, None, None, CHANNELS], tf.float64),
          tf.TensorSpec([None, None, None, 1], tf.bool)])
  x, mask = _random(3, 5, 7, CHANNELS), _mask()
  dense, active = traced(x, mask)
  np.testing.assert_allclose(dense, _expected(x, np.ones_like(mask)), 1e-9, 1e-9)
  np.testing.assert_allclose(active, _expected(x, mask), 1e-9, 1e-9)
  assert [result.shape for result in traced(x[:0], mask[:0])] == 2 * [(0, 5, 7, CHANNELS)]
  assert traced(x[:, :0], mask[:, :0])[0].shape == (3, 0, 7, CHANNELS)


@pytest.mark.parametrize('shape', [[2, 8], [2, 5, 8], [2, 3, 4, 5, 8]])
@pytest.mark.parametrize('norm', [
    lambda x, weight: group_norm.group_norm(x, weight, weight, 2),
    lambda x, weight: group_norm.scale_and_shift(x, weight, weight, weight, 2),
    lambda x, weight: group_norm.group_norm_at(x, tf.zeros([1, 3], tf.int32), weight, weight, 2)])
def test_only_maps_are_normalized(shape, norm):
  with pytest.raises(checks.ArgumentError, match=r'x has the shape .* must be \[batch, height'):
    norm(tf.zeros(shape), tf.ones([8]))


def test_wrong_number_of_groups():
  with pytest.raises(ValueError, match='num_groups is 5; it must divide the 12 channels'):
    group_norm.group_norm(tf.zeros([1, 2, 2, CHANNELS]), GAMMA, BETA, 5)


def test_the_norm_of_an_empty_list_has_no_sorted_sum():
  """OpenVINO fails at run time where a sorted segment sum gets no rows."""
  x = np.random.default_rng(0).normal(size=[2, 3, 4, 4])

  @tf.function(autograph=False)
  def norm(index):
    return group_norm.group_norm_at(
        tf.constant(x), index=index, gamma=np.ones(4), beta=np.zeros(4), num_groups=2)

  concrete = norm.get_concrete_function(tf.TensorSpec([None, 3], tf.int32))
  assert 'SegmentSum' not in {operation.type for operation in concrete.graph.get_operations()}
  # Sums of nothing are 0, so that only the scale 1 / sqrt(epsilon) is left.
  np.testing.assert_allclose(
      concrete(tf.zeros([0, 3], tf.int32)), x / np.sqrt(1e-5), 1e-6)

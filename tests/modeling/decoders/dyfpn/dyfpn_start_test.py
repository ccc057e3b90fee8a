"""The initial kernels of the branches of inception FPN and DyFPN."""
import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import dyfpn
from official_ext.ops import routing
import reference

CHANNELS = {'3': 6, '4': 5, '5': 7}
OPTIONS = {'input_specs': {level: [None, None, None, depth] for level, depth in CHANNELS.items()},
           'min_level': 3, 'max_level': 6, 'num_filters': 4}
SIZES = (1, 3, 3, 3, 5, 5, 5)


def test_small_branches_leave_the_lateral_alone():
  """`branch_init_scale` is a share of Glorot's variance; the first branch is FPN's lateral."""
  tf_keras.utils.set_random_seed(0)
  options = {'input_specs': {'3': [None, None, None, 64]}, 'min_level': 3, 'max_level': 3,
             'num_filters': 64, 'branch_init_scale': 0.04}
  inputs = {'3': tf.zeros([1, 2, 2, 64])}

  def shares(layer):
    layer(inputs)
    return [np.var(conv.kernel) * size**2 * 64
            for conv, size in zip(layer.laterals['3'].convs, SIZES)]

  np.testing.assert_allclose(shares(dyfpn.InceptionFPN(**options)), [1] + [0.04] * 6, 0.1)
  np.testing.assert_allclose(shares(dyfpn.DyFPN(block='B', **options)), [0.04] * 7, 0.1)


@pytest.mark.parametrize('share', [0.04, 0.5, 1.0, 2.0])
def test_branches_of_block_a_begin_as_one_lateral(share):
  """Each is sqrt(1 - share) times a common 1x1 kernel, and an own one of that share of variance."""
  tf_keras.utils.set_random_seed(0)
  options = {'input_specs': {level: [None, None, None, 64] for level in '34'}, 'min_level': 3,
             'max_level': 4, 'num_filters': 64, 'branch_init_scale': share}
  layer = dyfpn.DyFPN(block='A', **options)
  layer({'3': tf.zeros([1, 4, 4, 64]), '4': tf.zeros([1, 2, 2, 64])})
  common = max(0.0, 1 - share)
  centers = []
  for lateral in layer.laterals.values():
    for conv, size in zip(lateral.convs, SIZES):
      kernel = conv.kernel.numpy().astype(np.float64)
      center = kernel[size // 2, size // 2].copy()
      kernel[size // 2, size // 2] = np.nan
      np.testing.assert_allclose(np.var(center) * 64, common + share / size**2, rtol=0.1)
      if size > 1:
        np.testing.assert_allclose(np.nanvar(kernel) * size**2 * 64, share, rtol=0.1)
      centers.append(center.ravel())
  # Branches of one level share a kernel, those of different levels do not.
  covariances = 64 * np.cov(centers)
  expected = np.kron(np.eye(2), np.full([7, 7], common))
  between = ~np.eye(14, dtype=bool)
  np.testing.assert_allclose(covariances[between], expected[between], atol=0.06)


def test_gates_of_block_a_change_nothing_while_branches_are_alike():
  layer = dyfpn.DyFPN(block='A', gate={'type': 'random'}, branch_init_scale=1e-12, **OPTIONS)
  inputs = reference.pyramid_inputs(CHANNELS)
  gates, results = [], []
  for _ in range(2):
    with routing.RoutingTape() as tape:
      results.append(layer(inputs))
    gates.append(np.concatenate([*tape.routing().gates.values()]))
  assert np.any(gates[0] != gates[1])
  for level, features in results[0].items():
    np.testing.assert_allclose(features, results[1][level], atol=1e-4)
    assert np.ptp(features) > 0.1

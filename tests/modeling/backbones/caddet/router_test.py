"""The pooling of a router against NumPy; tests of the supernet check its logits."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.backbones.caddet import router
import caddet_reference


@pytest.mark.parametrize('size', [(1, 1), (1, 6), (5, 7), (4, 6), (4, 7), (5, 6), (65, 70)])
@pytest.mark.parametrize('known', [True, False])
def test_quarters_share_the_middle_where_a_size_is_odd(size, known):
  features = np.random.default_rng(0).normal(size=[3, *size, 2])
  pool = tf.function(router.pool_quarters, autograph=False, input_signature=[
      tf.TensorSpec([None, *(size if known else (None, None)), 2], tf.float64)])
  expected = np.stack([caddet_reference.quarters(image) for image in features])
  for pooled in (pool(features), router.pool_quarters(tf.constant(features))):
    np.testing.assert_allclose(pooled, expected, 1e-10, 1e-12)
  assert pool(features[:0]).shape == (0, 2, 2, 2)


@pytest.mark.parametrize('size', [(8, 8), (80, 80)])
def test_low_precision_is_summed_in_float32(size):
  """Sums of 1600 values of about 100 overflow float16."""
  features = tf.constant(np.random.default_rng(0).normal(100, 1, [2, *size, 3]), tf.float16)
  pooled = router.pool_quarters(features)
  assert pooled.dtype == tf.float32
  expected = np.stack([caddet_reference.quarters(x) for x in features.numpy().astype(np.float64)])
  np.testing.assert_allclose(pooled, expected, 1e-5)


def test_unknown_norms_are_refused():
  with pytest.raises(ValueError, match="norm is 'layer'; allowed are 'batch', 'group'"):
    router.PathRouter(4, 3, norm='layer')

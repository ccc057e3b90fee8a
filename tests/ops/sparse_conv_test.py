"""Sparse convolutions against plain NumPy, for every pattern of active positions."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import sparse_conv
import reference
from residual_blocks import CHANNELS, MASKS, VARIANTS, X
from residual_blocks import random
from residual_blocks import tensors

variants = pytest.mark.parametrize('variant', VARIANTS)
patterns = pytest.mark.parametrize('pattern', MASKS)


@variants
@patterns
@pytest.mark.parametrize('kernel_size', [(3, 3), (1, 1), (5, 3)])
def test_convolution_equals_the_full_one_times_the_mask(kernel_size, pattern, variant):
  kernel, mask = random(*kernel_size, CHANNELS, 5, seed=5), MASKS[pattern]
  result = sparse_conv.sparse_conv2d(*tensors(X, kernel, mask), **VARIANTS[variant])
  np.testing.assert_allclose(result, reference.conv2d(X, kernel) * mask, 1e-10, 1e-10)


@pytest.mark.parametrize('positions, channels, maps, share', [
    (64 * 80, 256, 1, 0.9975), (64 * 80, 64, 1, 0.415), (8 * 20, 128, 1, 0.318),
    (4 * 5, 128, 1, -1.907), (6820, 64, 5, 0.520), (1364, 128, 5, 0.719), (341, 64, 5, 0.999)])
def test_default_break_even(positions, channels, maps, share):
  for given in (positions, tf.constant(positions)):
    found = sparse_conv.default_break_even(given, channels, maps)
    assert abs(float(found) - share) < 0.0006


def test_a_list_pays_below_less_where_convolutions_are_faster():
  before, after = (sparse_conv.default_break_even(5120, 128, 5, saved) for saved in (0.0, 0.5))
  assert abs(before - after - 0.5 * (128 + 96) / 352) < 1e-9

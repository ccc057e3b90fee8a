"""The script that counts samples outside of maps counts what it should."""
import numpy as np
import sampled_positions
import tensorflow as tf

from official_ext.modeling.layers import deformable


class _Model(tf.Module):
  """A model whose backbone is one deformable convolution."""

  def __init__(self, shift):
    super().__init__()
    self.layer = deformable.DeformableConv2D(2, 3)
    self.layer(tf.zeros([1, 4, 4, 1]))
    self.layer.offset.bias.assign(np.tile(shift, 9))

  def backbone(self, images, training):
    del training
    return self.layer(images)


def test_a_pixel_outside_counts_and_half_a_pixel_does_not():
  positions = np.float32([[-1, 0], [-0.5, 3], [0, 4], [3.9, 3.9], [4, -7]])
  np.testing.assert_array_equal(
      sampled_positions.outside(positions, (4, 4)), [True, False, True, False, True])


def test_shares_and_distance():
  images = tf.zeros([2, 4, 4, 1])
  # Four rows with three taps each sample twelve rows; ten of them are inside.  Columns likewise.
  before, after, distance = sampled_positions.shares(_Model([0.0, 0.0]), images)
  np.testing.assert_allclose([before, after, distance], [44 / 144, 44 / 144, 0])
  # Three rows are left, and one column.
  moved = sampled_positions.shares(_Model([3.0, 4.0]), images)
  np.testing.assert_allclose(moved, [44 / 144, 141 / 144, 5])


def test_the_layer_is_left_as_it_was():
  before = deformable.deformable_conv.deformable_conv2d
  sampled_positions.shares(_Model([0.0, 0.0]), tf.zeros([1, 4, 4, 1]))
  assert deformable.deformable_conv.deformable_conv2d is before

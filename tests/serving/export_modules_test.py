"""An export module of several sizes gives each image its own budget."""
import types

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import routing
from official_ext.serving import export_modules


@pytest.mark.parametrize('budget, expected', [
    (None, [1, 1, 1]), (0.25, [0.25] * 3), ([0.0, 0.5, np.nan], [0, 0.5, 1])])
def test_image_files_of_any_sizes_have_their_own_budgets(budget, expected):
  module = types.SimpleNamespace(_num_channels=3, serve=lambda images: {
      'budget': tf.reshape(routing.wanted_budget(), [1]),
      'sum': tf.reduce_sum(tf.cast(images, tf.float32), [1, 2, 3])})

  def decode(size):
    return tf.ones([size, 2, 3], tf.uint8)

  @tf.function
  def serve(sizes):
    if budget is None:
      return export_modules.CanvasDetectionModule._serve_each(module, decode, sizes)
    with routing.spending(budget):
      return export_modules.CanvasDetectionModule._serve_each(module, decode, sizes)

  outputs = serve(tf.constant([1, 2, 5]))
  np.testing.assert_array_equal(outputs['budget'], np.float32(expected))
  np.testing.assert_array_equal(outputs['sum'], [6, 12, 30])

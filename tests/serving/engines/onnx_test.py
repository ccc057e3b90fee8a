"""ONNX models of networks that sample at offsets."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import deformable_conv
from official_ext.serving.engines import catalog
from official_ext.utils import command_line


class _Sampler(tf.Module):
  """A deformable convolution of images, with offsets of their own values."""

  def __init__(self):
    super().__init__()
    self.kernel = tf.Variable(tf.random.normal([3, 3, 3, 2]))

  @tf.function(input_signature=[tf.TensorSpec([None, 6, 7, 3], tf.uint8, 'inputs')],
               autograph=False)
  def serve(self, images):
    features = tf.cast(images, tf.float32) / 100
    return {'sums': deformable_conv.deformable_conv2d(
        features, self.kernel, tf.tile(features, [1, 1, 1, 6]) - 1)}


def _operations(graph):
  for node in graph.node:
    yield node.op_type
    for attribute in node.attribute:
      if attribute.HasField('g'):
        yield from _operations(attribute.g)


def test_samples_without_a_loop_over_positions(tmp_path):
  try:
    engine = catalog.engine('onnx')
  except command_line.CommandError:
    pytest.skip('no onnx')
  import onnx
  module = _Sampler()
  tf.saved_model.save(module, f'{tmp_path}/saved', signatures=module.serve)
  engine.convert(f'{tmp_path}/saved', 'serving_default', tmp_path)
  operations = set(_operations(onnx.load(f'{tmp_path}/{engine.FILE}').graph))
  assert 'Gather' in operations and not operations & {'Loop', 'Scan'}
  model = engine.Model(tmp_path, num_threads=1)
  for batch in (1, 3):
    images = np.random.default_rng(batch).integers(0, 256, (batch, 6, 7, 3), np.uint8)
    expected = module.serve(tf.constant(images))['sums']
    np.testing.assert_allclose(model(images)['sums'], expected, 0, 1e-4)

"""Levels and offsets of a neck lie where they are in the image."""
import types

import numpy as np
import pytest
import tensorflow as tf

from official_ext.modeling.decoders import drfpn
from official_ext.modeling.decoders import fpn_lite
from official_ext.serving import pyramid_features

SPECS = {level: [None, None, None, 3] for level in '34'}


def detector(decoder):
  """A detector for inputs of 64 x 96 pixels whose images have twice that size, or less."""

  def backbone(inputs, training):
    return {'3': inputs[:, ::8, ::8], '4': inputs[:, ::16, ::16]}

  def network_inputs(images):
    info = [[images[0].shape[:2], (64, 96), (0.5, 0.5), (0, 0)]]
    return tf.random.normal([1, 64, 96, 3]), tf.constant(info, tf.float32)

  model = types.SimpleNamespace(backbone=backbone, decoder=decoder)
  return types.SimpleNamespace(
      module=types.SimpleNamespace(model=model, network_inputs=network_inputs))


@pytest.mark.parametrize('size, expected', [
    ((128, 192), {'3': (8, 12), '4': (4, 6), '5': (2, 3)}),
    ((128, 100), {'3': (8, 7), '4': (4, 4), '5': (2, 2)})])
def test_levels_end_with_the_image(size, expected):
  neck = fpn_lite.FPNLite(input_specs=SPECS, max_level=5, num_filters=4)
  image = np.zeros([*size, 3], np.uint8)
  found = pyramid_features.levels(detector(neck), image)
  assert {level: value.shape for level, value in found.items()} == {
      level: (*shape, 4) for level, shape in expected.items()}
  assert not pyramid_features.offsets(detector(neck), image)


def test_offsets_are_in_pixels_of_the_image():
  neck = drfpn.DRFPN(input_specs=SPECS, max_level=4, num_filters=4, context='none')
  image = np.zeros([128, 100, 3], np.uint8)
  found = pyramid_features.offsets(detector(neck), image)
  assert set(found) == {'3'}
  starts = found['3'].starts
  assert starts.shape == (8, 7, 2)
  # The corner pixels of level 3, of 8 x 12, lie on those of level 4, of 4 x 6, whose stride is 16
  # in the input, and 32 in the image.
  np.testing.assert_allclose(starts[:, 0, 0], (np.arange(8) * 3 / 7 + 0.5) * 32, rtol=1e-5)
  np.testing.assert_allclose(starts[0, :, 1], (np.arange(7) * 5 / 11 + 0.5) * 32, rtol=1e-5)
  bias = next(variable for variable in neck.variables
              if variable.shape == [2] and variable.name.endswith('bias:0'))
  kernel = next(variable for variable in neck.variables
                if variable.shape[-1] == 2 and len(variable.shape) == 4)
  kernel.assign(0 * kernel)
  bias.assign([4.0, -2.0])  # x and y
  found = pyramid_features.offsets(detector(neck), image)['3']
  moved = np.array([-2.0 * 3 / 20, 4.0 * 5 / 20]) * 32  # times the last index by the sides 8 + 12
  np.testing.assert_allclose(
      found.ends - found.starts, np.broadcast_to(moved, starts.shape), rtol=1e-4)

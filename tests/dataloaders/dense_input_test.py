"""Padded boxes of the parsers: in pixels of the network's input, without crowds."""
import numpy as np
from official.vision.dataloaders import retinanet_input
import pytest
import tensorflow as tf

from official_ext.dataloaders import dense_input

# An image of 40 x 80 pixels becomes an input of 64 x 64: boxes shrink to 0.8 of their size.
BOXES = [[0, 0, 20, 40], [10, 20, 30, 80], [0, 0, 40, 80]]
OPTIONS = {'dtype': 'float32', 'max_num_instances': 5}
ANCHORS = {'min_level': 3, 'num_scales': 1, 'aspect_ratios': [1.0], 'anchor_size': 4.0}


def example(crowd=(False, False, True)):
  """Returns an example as Model Garden's decoder does, with normalized boxes."""
  image = np.random.default_rng(0).integers(0, 256, [40, 80, 3])
  boxes = np.array(BOXES) / [40, 80, 40, 80]
  return {
      'image': tf.constant(image, tf.uint8), 'source_id': tf.constant('7'),
      'height': tf.constant(40), 'width': tf.constant(80),
      'groundtruth_boxes': tf.constant(boxes, tf.float32),
      'groundtruth_classes': tf.constant([2, 1, 3], tf.int64),
      'groundtruth_area': tf.constant([800.0, 1200, 3200]),
      'groundtruth_is_crowd': tf.constant(crowd)}


@pytest.mark.parametrize('is_training', [True, False])
@pytest.mark.parametrize('flip', [False, True])
def test_boxes_are_in_pixels_of_the_input_and_all_other_labels_are_model_gardens(is_training, flip):
  options = {'output_size': [64, 64], 'max_level': 4, 'aug_rand_hflip': flip, **OPTIONS}
  parsers = (dense_input.AnchorParser(**options, **ANCHORS), dense_input.Parser(**options),
             retinanet_input.Parser(**options, **ANCHORS))
  results = []
  for parser in parsers:
    tf.random.set_seed(3)
    results.append(parser.parse_fn(is_training)(example()))
  (image, labels), (_, fcos_labels), (stock_image, stock_labels) = results
  expected = 0.8 * np.array(BOXES[:2], np.float32)
  flipped = np.stack([expected[:, 0], 64 - expected[:, 3], expected[:, 2], 64 - expected[:, 1]], 1)
  boxes = labels['boxes'].numpy()
  assert any(np.allclose(boxes[:2], one, atol=1e-4) for one in (
      (expected, flipped) if flip and is_training else (expected,)))
  assert boxes.shape == (5, 4) and np.all(boxes[2:] == -1)
  np.testing.assert_array_equal(boxes, fcos_labels['boxes'])
  np.testing.assert_array_equal(image, stock_image)
  tf.nest.map_structure(
      np.testing.assert_array_equal,
      {name: value for name, value in labels.items() if name != 'boxes'}, stock_labels)


def test_crowds_are_no_boxes_even_if_the_detector_learns_them():
  parser = dense_input.AnchorParser([64, 64], max_level=4, skip_crowd_during_training=False,
                                    **OPTIONS, **ANCHORS)
  _, labels = parser.parse_fn(True)(example())
  assert np.sum(np.all(labels['boxes'].numpy() >= 0, -1)) == 2
  _, labels = parser.parse_fn(True)(example((True,) * 3))
  assert np.all(labels['boxes'] == -1)

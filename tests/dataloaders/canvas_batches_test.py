"""Batches of one canvas: sizes, and boxes that lie on their pixels, in both orientations."""
import collections
import types

import numpy as np
import tensorflow as tf

from official_ext.dataloaders import canvas_batches
from official_ext.dataloaders import dense_input
from official_ext.ops import canvases

SIZES = [(40, 60), (60, 40), (40, 40), (120, 61), (33, 44), (200, 300), (20, 90)]
BATCH = 2


def examples():
  """Images of gray with a red rectangle, as Model Garden's decoder gives them."""
  for number, (height, width) in enumerate(SIZES):
    image = np.full([height, width, 3], 128, np.uint8)
    box = np.array([height // 4, width // 5, height // 4 + 9, width // 5 + 6 + number])
    image[box[0]:box[2], box[1]:box[3]] = (250, 10, 10)
    yield {
        'image': image, 'source_id': str(number), 'height': height, 'width': width,
        'groundtruth_boxes': (box / [height, width, height, width])[None].astype(np.float32),
        'groundtruth_classes': [1], 'groundtruth_area': [1.0], 'groundtruth_is_crowd': [False]}


def dataset():
  return tf.data.Dataset.from_generator(examples, output_signature={
      'image': tf.TensorSpec([None, None, 3], tf.uint8), 'source_id': tf.TensorSpec([], tf.string),
      'height': tf.TensorSpec([], tf.int32), 'width': tf.TensorSpec([], tf.int32),
      'groundtruth_boxes': tf.TensorSpec([None, 4]),
      'groundtruth_classes': tf.TensorSpec([None], tf.int64),
      'groundtruth_area': tf.TensorSpec([None]),
      'groundtruth_is_crowd': tf.TensorSpec([None], tf.bool)})


def batches(choices, is_training, context=None):
  parser = canvas_batches.CanvasParser(choices, lambda canvas: dense_input.Parser(
      list(canvas.box), max_level=4, dtype='float32', max_num_instances=3, aug_rand_hflip=True))
  params = types.SimpleNamespace(global_batch_size=BATCH, drop_remainder=False)
  return list(canvas_batches.batch_by_canvas(params)(
      dataset().map(parser.parse_fn(is_training)), context))


def test_boxes_lie_on_their_pixels_and_a_batch_has_one_canvas():
  choices = canvases.Canvases(32, 53, [1.34], 16)
  for is_training in (False, True):
    found = batches([choices], is_training)
    sizes = collections.Counter()
    for images, labels in found:
      assert 'canvas' not in labels and len(images) <= BATCH
      sizes[tuple(images.shape[1:3])] += len(images)
      for image, boxes, info in zip(images.numpy(), labels['boxes'].numpy(),
                                    labels['image_info'].numpy()):
        red = image[..., 0] - image[..., 1] > 1.5
        rows, columns = np.flatnonzero(red.any(1)), np.flatnonzero(red.any(0))
        edges = [rows[0], columns[0], rows[-1] + 1, columns[-1] + 1]
        np.testing.assert_allclose(boxes[0], edges, atol=1.01)
        assert np.all(boxes[1:] == -1)
        resized = info[1].astype(int)
        np.testing.assert_array_equal(resized, np.round(info[0] * info[2]))
        assert np.any(image[resized[0] - 1]) and np.any(image[:, resized[1] - 1])
        assert not np.any(image[resized[0]:]) and not np.any(image[:, resized[1]:])
    assert sizes == {(32, 48): 4, (32, 64): 1, (48, 32): 1, (64, 32): 1}


def test_images_of_a_batch_have_the_same_random_short_side():
  tf.random.set_seed(1)
  choices = [canvases.Canvases(side, 106, [], 16) for side in (32, 64)]
  sizes = {tuple(images.shape[1:3]) for _ in range(6) for images, _ in batches(choices, True)}
  assert sizes == {(32, 112), (64, 112), (112, 32), (112, 64)}


def test_all_replicas_of_a_step_get_one_canvas():
  context = tf.distribute.InputContext(num_input_pipelines=1, num_replicas_in_sync=2)
  choices = canvases.Canvases(32, 53, [1.34], 16)
  found = [tuple(images.shape[:3]) for images, _ in batches([choices], False, context)]
  # The global batch of two images is one image for each replica.
  steps = list(zip(found[::2], found[1::2]))
  assert all(first[1:] == second[1:] for first, second in steps)
  assert [first[0] for first, _ in steps] == [1] * 5
  assert sorted(second[0] for _, second in steps) == [0, 0, 0, 1, 1]

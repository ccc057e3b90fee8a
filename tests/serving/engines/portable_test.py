"""Functions of common operations compute what the operations compute that they replace."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import sampling
from official_ext.ops import suppression
from official_ext.serving.compiling import frozen
from official_ext.serving.engines import portable

RANDOM = np.random.default_rng(0)


def _crops(maps, boxes, images):
  return tf.image.crop_and_resize(maps, boxes, images, crop_size=[1, 1])


def _sums(table, rows, segments, count):
  return tf.sparse.segment_sum(table, rows, segments, num_segments=count)


def _float(*shape):
  return RANDOM.uniform(-1, 1, shape).astype(np.float32)


# Boxes whose centers lie inside, on the edges, on pixels, and outside on every side.
CENTERS = np.float32([[0.3, 0.7], [0, 0], [1, 1], [0, 0.25], [-0.01, 0.5], [0.5, 1.01], [1.5, -2]])
HALVES = _float(7, 2)
BOXES = np.concatenate([CENTERS - HALVES, CENTERS + HALVES], 1)
CROP = (_float(3, 5, 9, 2), BOXES, np.int32([0, 2, 1, 0, 1, 2, 0]))
SUM = (_float(6, 2), np.int32([5, 0, 0, 3]), np.int32([0, 0, 2, 2]), np.int32(4))


def _suppressed(boxes, scores):
  return tf.image.non_max_suppression(boxes, scores, 3, 0.5, score_threshold=0.1)


# Two far boxes, one that overlaps the first, one with a low score, and one too many.
CROWD = (np.float32([[0, 0, 9, 9], [0, 1, 9, 9], [20, 20, 29, 29], [40, 40, 49, 49],
                     [60, 60, 69, 69], [80, 80, 89, 89]]),
         np.float32([0.5, 0.7, 0.9, 0.05, 0.3, 0.2]))


@pytest.mark.parametrize('function, substitute, arguments', [
    (_crops, lambda *given: portable.sample_centers(*given, np.int32([1, 1])), CROP),
    (_sums, portable.segment_sum, SUM),
    (_suppressed, lambda *given: portable.suppress(*given, 3, 0.5, 0.1), CROWD),
    (_suppressed, lambda *given: portable.suppress(*given, 3, 0.5, 0.1),
     (CROWD[0], np.float32([0.5, 0.7, 0, 0, 0, 0])))])
def test_a_substitute_is_equal(function, substitute, arguments):
  expected = function(*arguments).numpy()
  assert np.any(expected)
  np.testing.assert_allclose(substitute(*arguments), expected, 0, 1e-6)


def _concrete(function, *specs):
  return tf.function(function, specs, autograph=False).get_concrete_function()


def _operations(function):
  graph = function.graph.as_graph_def()
  return {node.op for nodes in (graph.node, *(f.node_def for f in graph.library.function))
          for node in nodes}


def test_operations_are_replaced_in_the_graph_and_in_conditionals():
  kernel = tf.Variable(_float(1, 1, 2, 2))

  def run(maps, gate_threshold):
    maps = tf.nn.conv2d(maps, kernel, 1, 'SAME')
    positions = tf.constant(_float(3, 2, 4, 2)) * 9
    found = sampling.sample_bilinear(maps, positions)
    table = tf.reshape(found, [-1, 2])
    return {'found': found, 'sums': tf.cond(
        gate_threshold > 0.5, lambda: _sums(table, *SUM[1:]), lambda: tf.zeros([4, 2]))}

  function = _concrete(run, tf.TensorSpec([3, None, None, 2]), tf.TensorSpec([]))
  crops, sums = 'CropAndResize', 'SparseSegmentSumWithNumSegments'
  assert {crops, sums} <= _operations(function)
  assert portable.has(function, [crops]) and portable.has(function, [sums])
  assert not portable.has(function, ['NonMaxSuppressionV3'])
  assert {crops, sums} & _operations(portable.replace(function, [sums])) == {crops}
  replaced = portable.replace(function)
  assert not _operations(replaced) & set(portable.OPERATIONS)
  maps = _float(3, 5, 9, 2)
  for threshold in (0.0, 1.0):
    wanted, got = (f(tf.constant(maps), tf.constant(threshold)) for f in (function, replaced))
    for name, value in wanted.items():
      np.testing.assert_allclose(got[name], value, 0, 1e-6, err_msg=name)
  assert np.any(got['sums'])


def test_operations_in_the_body_of_a_loop_are_replaced_and_can_be_rewritten_again():
  """As LiteRT's conversion of the portable suppression does."""
  rule = suppression.Rule(0.1, 0.5, 3)

  def run(boxes, scores):
    return suppression.portable([suppression.Level(boxes[:, :, None], scores[..., None])], rule)

  function = _concrete(run, tf.TensorSpec([None, None, 4]), tf.TensorSpec([None, None]))
  # As in an export, whose functions TensorFlow has optimized before.
  function = frozen.rewrite(function, lambda graph_def, outputs: graph_def)
  assert 'NonMaxSuppressionV3' in _operations(function)
  replaced = portable.replace(function)
  for _ in range(2):
    replaced = frozen.rewrite(replaced, lambda graph_def, outputs: graph_def)
  assert not _operations(replaced) & {'NonMaxSuppressionV3', 'EnsureShape'}
  boxes, scores = np.stack([CROWD[0]] * 2), np.stack([CROWD[1], CROWD[1][::-1]])
  wanted, got = (f(tf.constant(boxes), tf.constant(scores)) for f in (function, replaced))
  np.testing.assert_array_equal(wanted['num_detections'], [3, 3])
  np.testing.assert_allclose(wanted['detection_scores'], [[0.9, 0.7, 0.3], [0.9, 0.7, 0.5]])
  for name, value in wanted.items():
    np.testing.assert_array_equal(got[name], value, name)


@pytest.mark.parametrize('options', [
    {'crop_size': [2, 1]}, {'method': 'nearest'}, {'extrapolation_value': 1.0}])
def test_other_crops_stay(options):

  def run(maps):
    return {'crops': tf.image.crop_and_resize(
        maps, BOXES, CROP[2], **{'crop_size': [1, 1], **options})}

  replaced = portable.replace(_concrete(run, tf.TensorSpec([3, None, None, 2])))
  assert 'CropAndResize' in _operations(replaced)


def test_replaced_operations_behind_a_loop_with_assertions_can_be_rewritten_again():
  """TensorFlow leaves calls of functions with such loops, as exports have them, in the graph."""

  def checked(image):
    with tf.control_dependencies([tf.debugging.Assert(tf.size(image) > 0, [image])]):
      return tf.identity(image)

  def run(maps):
    maps = tf.map_fn(checked, maps)
    positions = tf.constant(_float(2, 2, 4, 2)) * 9
    return {'found': sampling.sample_bilinear(maps, positions)}

  function, _ = frozen.freeze(_concrete(run, tf.TensorSpec([None, 5, 9, 2], name='maps')))
  maps = tf.constant(_float(2, 5, 9, 2))
  expected = function(maps)['found']
  function = portable.replace(function)
  for _ in range(2):
    function = frozen.rewrite(function, lambda graph_def, outputs: graph_def)
  assert not _operations(function) & set(portable.OPERATIONS)
  np.testing.assert_allclose(function(maps)['found'], expected, 0, 1e-6)

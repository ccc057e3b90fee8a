"""Both suppressions, and the one in NumPy, against a plain loop over sorted boxes."""
import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import suppression
from official_ext.serving import suppression as finishing

SIDE, NUM_BOXES = 300.0, (120, 40)
# Boxes of each class, options of the rule, center-ness: RetinaNet, R-CNN, by level, FCOS.
CASES = {
    'retinanet': (1, {}, False),
    'rcnn': (5, {}, False),
    'by_level': (1, {'per_level': 20}, False),
    'fcos': (1, {'per_level': 30, 'best': 'pairs'}, True),
    'nothing': (1, {'score_threshold': 0.999}, False),
}
CLASSES = 5


def _rule(**options):
  return suppression.Rule(**{'score_threshold': 0.05, 'iou_threshold': 0.5, 'max_detections': 60,
                             **options})


def _levels(own_boxes: int, centerness: bool):
  """Makes crowded boxes around few centers; every seventh has no area."""
  random = np.random.default_rng(0)
  centers = random.uniform(0, SIDE, (2, 12, 2))
  levels = []
  for number in NUM_BOXES:
    middle = np.stack([own[random.integers(0, 12, (number, own_boxes))] for own in centers])
    middle += random.normal(0, 6, middle.shape)
    half = random.uniform(4, 30, middle.shape)
    boxes = np.clip(np.concatenate([middle - half, middle + half], -1), 0, SIDE)
    boxes[:, ::7, :, 2] = boxes[:, ::7, :, 0]
    scores = random.uniform(0, 1, (2, number, CLASSES))**6
    central = random.uniform(0, 1, (2, number)) if centerness else None
    levels.append(suppression.Level(*(
        None if values is None else values.astype(np.float32)
        for values in (boxes, scores, central))))
  return levels


def _iou(one, other):
  low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
  shared = np.prod(np.maximum(high - low, 0))
  return shared / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared)


def _plain(levels, rule, image):
  """Returns [score, class, *box] of every detection of an image, best first, in float64."""
  pairs = []
  for boxes, scores, central in levels:
    boxes, scores = boxes[image].astype(float), scores[image].astype(float)
    boxes = np.broadcast_to(boxes, (len(scores), CLASSES, 4))
    own = [(scores[row, label], row, label) for row in range(len(scores))
           for label in range(CLASSES) if scores[row, label] > rule.score_threshold
           and np.all(boxes[row, label, 2:] > boxes[row, label, :2])]
    if rule.per_level and rule.best == 'pairs':
      own = sorted(own, reverse=True)[:rule.per_level]
    elif rule.per_level:
      ranked = sorted({row for _, row, _ in own}, key=lambda row: -scores[row].max())
      own = [pair for pair in own if pair[1] in ranked[:rule.per_level]]
    for score, row, label in own:
      if central is not None:
        score = np.sqrt(score * central[image, row])
      pairs.append([score, label, *boxes[row, label]])
  kept = []
  for pair in sorted(pairs, reverse=True):
    if all(pair[1] != other[1] or _iou(np.array(pair[2:]), np.array(other[2:]))
           <= rule.iou_threshold for other in kept):
      kept.append(pair)
  return np.array(kept[:rule.max_detections]).reshape(-1, 6)


def _traced(levels, rule):
  """Runs `portable` for a batch of unknown size."""
  flat = [value for level in levels for value in level if value is not None]

  def run(*values):
    values = iter(values)
    return suppression.portable(
        [suppression.Level(*(None if value is None else next(values) for value in level))
         for level in levels], rule)

  return tf.function(run, input_signature=[
      tf.TensorSpec([None, *value.shape[1:]]) for value in flat])(*flat)


def _finished(levels, rule):
  names = ('decoded_boxes', 'decoded_box_scores', 'decoded_box_centerness')
  outputs = {name: np.concatenate(values, 1) for name, values in zip(names, zip(*levels))
             if values[0] is not None}
  found = finishing.finish(outputs, {**rule._asdict(), 'levels': NUM_BOXES})
  return {**found, 'detection_classes': found['detection_classes'] - 1}


@pytest.mark.parametrize('case', CASES)
def test_all_ways_equal_the_plain_loop(case):
  own_boxes, options, centerness = CASES[case]
  levels, rule = _levels(own_boxes, centerness), _rule(**options)
  tensors = [suppression.Level(*(None if v is None else tf.constant(v) for v in level))
             for level in levels]
  ways = {
      'batched': suppression.suppress('batched', tensors, rule),
      'portable': suppression.suppress('portable', tensors, rule),
      'portable, any batch': _traced(levels, rule), 'numpy': _finished(levels, rule)}
  for name, found in ways.items():
    for image in range(2):
      expected = _plain(levels, rule, image)
      count = int(found['num_detections'][image])
      assert count == len(expected) and (count > 20 or case == 'nothing'), name
      actual = np.concatenate([
          np.reshape(found['detection_scores'][image], (-1, 1)),
          np.reshape(found['detection_classes'][image], (-1, 1)),
          found['detection_boxes'][image]], -1)
      np.testing.assert_allclose(actual[:count], expected, rtol=1e-6, err_msg=name)
      assert len(actual) == rule.max_detections
      np.testing.assert_array_equal(actual[count:], 0, err_msg=name)


@pytest.mark.parametrize('count', [1, 7, 30, 1000])
def test_best_pairs_are_the_first_of_equal_scores(count):
  level = _levels(1, True)[0]
  scores = np.round(3 * level.scores) / 3  # Many are equal.
  found = suppression.best_pairs(level._replace(scores=scores), count)
  scores[:, ::7] = 0  # without area
  for image in range(2):
    places = np.argsort(-scores[image], axis=None, kind='stable')[:count]
    rows, classes = np.divmod(places, CLASSES)
    np.testing.assert_array_equal(found.boxes[image], level.boxes[image][rows])
    np.testing.assert_array_equal(found.centerness[image], level.centerness[image][rows])
    np.testing.assert_array_equal(found.scores[image], np.where(
        classes[:, None] == range(CLASSES), scores[image][rows, classes][:, None], 0))


def test_limits_change_what_is_found():
  # The control of the cases with a limit.
  levels = _levels(1, False)
  scores = [_plain(levels, _rule(**options), 0)[:, 0].sum() for options in (
      {}, {'per_level': 20}, {'per_level': 20, 'best': 'pairs'})]
  assert scores[0] > scores[1] > scores[2]


def test_portable_has_no_operation_that_other_engines_lack():
  levels, rule = _levels(1, True), _rule(per_level=30, best='pairs')
  graph = tf.function(lambda: suppression.portable(levels, rule)).get_concrete_function().graph
  names = {op.type for op in graph.get_operations()}
  assert 'CombinedNonMaxSuppression' not in names
  assert any(name.startswith('NonMaxSuppressionV') for name in names)


def test_numpy_finishes_no_images():
  found = finishing.finish(
      {'decoded_boxes': np.zeros([0, 9, 1, 4]), 'decoded_box_scores': np.zeros([0, 9, 3])},
      {**_rule()._asdict(), 'levels': []})
  assert {name: (value.shape, value.dtype.name) for name, value in found.items()} == {
      'detection_boxes': ((0, 60, 4), 'float32'), 'detection_scores': ((0, 60), 'float32'),
      'detection_classes': ((0, 60), 'int32'), 'num_detections': ((0,), 'int32')}

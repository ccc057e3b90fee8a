"""The task of FCOS and ATSS: losses against NumPy, steps, evaluation."""
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling import dense_detector
from official_ext.ops import assigners
from official_ext.tasks import dense
import small_detectors
import reference

SIZES = {'3': (12, 16), '4': (6, 8), '5': (3, 4)}
AT = assigners.locations(list(SIZES.values()), 3)
CLASSES = 3
BOXES = np.array([[[10, 20, 50, 70], [4, 4, 30, 30], [60, 8, 90, 120], [-1, -1, -1, -1]],
                  [[0, 0, 96, 128], [40, 40, 40, 60], [-1, -1, -1, -1], [-1, -1, -1, -1]]])
LABELS = np.array([[1, 3, 2, -1], [2, 1, -1, -1]])
NAMES = ('fcos', 'atss')


def labels(boxes=BOXES, classes=LABELS):
  return {'boxes': tf.constant(boxes, tf.float32), 'classes': tf.constant(classes)}


def by_level(values):
  """`[batch, locations, channels]` as the maps of a head."""
  parts = np.split(values, np.cumsum(AT.counts)[:-1], axis=1)
  return {level: tf.constant(part.reshape([len(values), *size, -1]), tf.float32)
          for (level, size), part in zip(SIZES.items(), parts)}


def outputs_of(classes, boxes, centerness):
  return {'cls_outputs': by_level(classes), 'box_outputs': by_level(boxes),
          'attribute_outputs': {'centerness': by_level(centerness[..., None])}}


def random_outputs(seed=0, batch=2):
  random = np.random.default_rng(seed)
  count = sum(AT.counts)
  boxes = np.abs(random.normal(0, 20, [batch, count, 4]))
  return (random.normal(-2, 2, [batch, count, CLASSES]), boxes,
          random.normal(0, 2, [batch, count]))


def encode(name, boxes):
  """What the head must predict to mean these boxes."""
  if name == 'fcos':
    return np.concatenate([AT.points - boxes[..., :2], boxes[..., 2:] - AT.points], -1)
  anchor = 8 * AT.strides[:, None]
  return np.concatenate([
      ((boxes[..., :2] + boxes[..., 2:]) / 2 - AT.points) / anchor / 0.1,
      np.log((boxes[..., 2:] - boxes[..., :2]) / anchor) / 0.2], -1)


def decode(name, raw):
  if name == 'fcos':
    return np.concatenate([AT.points - raw[..., :2], AT.points + raw[..., 2:]], -1)
  anchor = 8 * AT.strides[:, None]
  center, size = AT.points + raw[..., :2] * 0.1 * anchor, np.exp(raw[..., 2:] * 0.2) * anchor
  return np.concatenate([center - size / 2, center + size / 2], -1)


def giou(a, b):
  shared = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
  union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - shared
  hull = np.prod(np.maximum(a[2:], b[2:]) - np.minimum(a[:2], b[:2]))
  return shared / union - (hull - union) / hull


def losses_by_hand(name, rows, classes, raw, central):
  """Focal loss, weighted overlap loss and center-ness cross entropy, one location at a time."""
  decoded, focal, overlap, entropy, weights, positives = decode(name, raw), 0, 0, 0, 0, 0
  for image, location in np.ndindex(*rows.shape):
    row = rows[image, location]
    label = LABELS[image, row] if row >= 0 else 0
    for index, logit in enumerate(classes[image, location], 1):
      p = reference.sigmoid(logit)
      focal -= (0.25 * (1 - p)**2 * np.log(p) if index == label
                else 0.75 * p**2 * np.log(1 - p))
    if row < 0:
      continue
    (y, x), box = AT.points[location].astype(float), BOXES[image, row].astype(float)
    top, left, bottom, right = y - box[0], x - box[1], box[2] - y, box[3] - x
    target = np.sqrt(min(top, bottom) / max(top, bottom) * min(left, right) / max(left, right))
    overlap += target * (1 - giou(decoded[image, location], box))
    p = reference.sigmoid(central[image, location])
    entropy -= target * np.log(p) + (1 - target) * np.log(1 - p)
    weights, positives = weights + target, positives + 1
  return focal / positives, overlap / max(weights, 1), entropy / positives


def matches(name):
  return assigners.assigner(name).match(AT, labels()['boxes'], labels()['classes']).numpy()


@pytest.mark.parametrize('name', NAMES)
def test_losses_equal_numpy(name):
  classes, raw, central = random_outputs()
  # Of deltas, 20 would be a box of e^4 anchors, where Model Garden's decoding ends.
  raw = raw if name == 'fcos' else raw / 20
  rows = matches(name)
  assert np.sum(rows >= 0) > 5 and np.all(rows[1] <= 0)
  losses = dense.dense_losses(
      outputs_of(classes, raw, central), labels(), assigners.assigner(name))
  np.testing.assert_allclose(losses, losses_by_hand(name, rows, classes, raw, central), 1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_a_perfect_prediction_costs_nothing_but_the_entropy_of_the_center_ness(name):
  targets = assigners.targets(
      assigners.assigner(name).match, AT, labels()['boxes'], labels()['classes'])
  is_positive, target = targets.is_positive.numpy(), np.float64(targets.centerness)
  boxes = np.where(is_positive[..., None], targets.boxes, [[0.0, 0, 1, 1]])
  classes = np.where(np.eye(CLASSES + 1)[targets.classes][..., 1:] == 1, 20.0, -20.0)
  target = np.clip(target, 1e-6, 1 - 1e-6)
  losses = dense.dense_losses(
      outputs_of(classes, encode(name, boxes), np.log(target / (1 - target))), labels(),
      assigners.assigner(name))
  entropy = -target * np.log(target) - (1 - target) * np.log(1 - target)
  np.testing.assert_allclose(losses.classes, 0, atol=1e-6)
  np.testing.assert_allclose(losses.boxes, 0, atol=1e-4)
  np.testing.assert_allclose(losses.centerness, entropy[is_positive].mean(), rtol=1e-4)


@pytest.mark.parametrize('name', NAMES)
def test_a_batch_without_boxes_is_finite_and_only_the_classes_learn(name):
  outputs = outputs_of(*random_outputs())
  with tf.GradientTape() as tape:
    tape.watch(outputs)
    losses = dense.dense_losses(
        outputs, labels(np.full([2, 4, 4], -1), np.full([2, 4], -1)), assigners.assigner(name))
    total = tf.add_n(losses)
  assert (float(losses.boxes), float(losses.centerness)) == (0, 0)
  classes, _, _ = random_outputs()
  p = reference.sigmoid(classes)
  np.testing.assert_allclose(losses.classes, np.sum(-0.75 * p**2 * np.log(1 - p)), 1e-4)
  gradients = tape.gradient(total, outputs)
  assert all(np.all(np.isfinite(x)) for x in tf.nest.flatten(gradients) if x is not None)
  assert all(np.any(x != 0) for x in gradients['cls_outputs'].values())


def test_the_order_of_images_and_of_boxes_changes_nothing():
  classes, raw, central = random_outputs()
  first = dense.dense_losses(outputs_of(classes, raw, central), labels(),
                             assigners.assigner('fcos'))
  again = dense.dense_losses(
      outputs_of(classes[::-1], raw[::-1], central[::-1]),
      labels(BOXES[::-1, ::-1], LABELS[::-1, ::-1]), assigners.assigner('fcos'))
  np.testing.assert_allclose(first, again, rtol=1e-6)


@pytest.mark.parametrize('name', NAMES)
def test_the_loss_of_an_image_is_that_of_a_batch_of_one(name):
  classes, raw, central = random_outputs(batch=3)
  raw = raw if name == 'fcos' else raw / 20
  boxes = np.concatenate([BOXES, np.full([1, 4, 4], -1)])
  rows = np.concatenate([LABELS, np.full([1, 4], -1)])
  assigner = assigners.assigner(name)
  together = dense.dense_image_losses(
      outputs_of(classes, raw, central), labels(boxes, rows), assigner)
  for i in range(3):
    alone = dense.dense_losses(
        outputs_of(classes[i:i + 1], raw[i:i + 1], central[i:i + 1]),
        labels(boxes[i:i + 1], rows[i:i + 1]), assigner)
    np.testing.assert_allclose([term[i] for term in together], alone, rtol=1e-5)


@pytest.mark.slow
def test_two_replicas_share_their_denominators():
  tests = pathlib.Path(__file__).resolve().parents[1]
  done = subprocess.run(
      [sys.executable, tests / 'processes' / 'dense_replicas.py'], capture_output=True, text=True,
      env={**os.environ, 'PYTHONPATH': str(tests.parent)}, timeout=300, check=True)
  report = json.loads(done.stdout.strip().splitlines()[-1])
  assert report['replicas'] == 2
  np.testing.assert_allclose(report['two_replicas'], report['one_device'], rtol=1e-5)


# --- On the sample ----------------------------------------------------------------------


def small(name, records, **task):
  return small_detectors.small_task(
      f'{name}_efficientnetlite0_sample', annotation_file=f'{records}/annotations/val.json', **task)


def overfit(task, model, inputs, steps):
  optimizer, metrics = tf_keras.optimizers.legacy.SGD(0.01, 0.9), task.build_metrics()
  step = tf.function(lambda inputs: task.train_step(inputs, model, optimizer, metrics))
  losses = []
  for _ in range(steps):
    losses.append(float(step(inputs)['loss']))
  return losses, metrics


@pytest.mark.slow
@pytest.mark.parametrize('name', ['fcos_fpn', 'atss_dyfpn'])
def test_training_and_evaluation(name, sample_records):
  task, model = small(name, sample_records)
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  before = [variable.numpy() for variable in model.head.trainable_variables]
  losses, metrics = overfit(task, model, inputs, 12)
  assert losses[-1] < 0.8 * losses[0]
  values = {metric.name: float(metric.result()) for metric in metrics}
  weight = task.task_config.losses.box_loss_weight
  assert weight == {'fcos': 1, 'atss': 2}[name[:4]]
  # What is left is the center-ness loss, near that of a coin.
  left = values['model_loss'] - values['cls_loss'] - weight * values['box_loss']
  assert 0.4 < left < 0.9
  for old, variable in zip(before, model.head.trainable_variables):
    assert np.any(old != variable), variable.name
  inputs = small_detectors.batch(task, f'{sample_records}/val-*.tfrecord', training=False)
  task.build_metrics(training=False)
  logs = task.validation_step(inputs, model)
  state = task.aggregate_logs(None, tf.nest.map_structure(lambda value: (value,), logs))
  results = task.reduce_aggregated_logs(state)
  assert np.isfinite(logs['loss']) and 0 <= results['AP'] <= 1
  assert ('routing/gmac/executed/mean' in results) == ('dyfpn' in name)


@pytest.mark.slow
def test_detections_flip_with_the_image(sample_records):
  task, model = small('fcos_fpn', sample_records)
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  overfit(task, model, inputs, 25)
  # A network that treats left and right alike: EfficientNet pads unevenly, so only what is
  # behind the decoder is flipped here.
  features = model.decoder(model.backbone(inputs[0]))
  for variable in model.head.variables:
    if 'kernel' in variable.name:
      variable.assign((variable + variable[:, ::-1]) / 2)
  boxes = next(v for v in model.head.variables if v.name.endswith('boxes/kernel:0'))
  bias = next(v for v in model.head.variables if v.name.endswith('boxes/bias:0'))
  swapped = tf.gather(boxes[:, ::-1], [0, 3, 2, 1], axis=-1)
  boxes.assign((boxes + swapped) / 2)
  bias.assign((bias + tf.gather(bias, [0, 3, 2, 1])) / 2)

  def detect(features):
    classes, raw, attributes = model.head(features)
    at = dense_detector.grid_locations(raw)
    decoded = assigners.assigner('fcos').decode(at, dense_detector.flatten(raw))
    return model.detection_generator(classes, decoded, attributes['centerness'])

  plain = detect(features)
  flipped = detect({level: x[:, :, ::-1] for level, x in features.items()})
  assert np.all(plain['num_detections'] > 0)
  np.testing.assert_allclose(plain['detection_scores'], flipped['detection_scores'], atol=1e-4)
  best, other = plain['detection_boxes'][:, 0].numpy(), flipped['detection_boxes'][:, 0].numpy()
  mirrored = np.stack([other[:, 0], 64 - other[:, 3], other[:, 2], 64 - other[:, 1]], -1)
  np.testing.assert_allclose(best, mirrored, atol=0.05)


@pytest.mark.slow
def test_towers_in_retinanet(sample_records):
  task, model = small('retinanet_fpn', sample_records, model={
      'head': {'tower': {'type': 'plain', 'plain': {'num_convs': 1}}}})
  assert type(model.head).__name__ == 'AnchorHead'
  names = [variable.name for variable in model.trainable_variables if 'head' in variable.name]
  assert len(names) == 2 * (2 + 2) + 4 == len(model.head.trainable_variables)
  inputs = small_detectors.batch(task, f'{sample_records}/train-*.tfrecord')
  losses, _ = overfit(task, model, inputs, 6)
  assert losses[-1] < losses[0]
  outputs = model(inputs[0], image_shape=inputs[1]['image_info'][:, 1], training=False)
  assert outputs['cls_outputs']['3'].shape[-1] == 9 * 11
  assert outputs['detection_boxes'].shape == (4, 100, 4)


def test_an_option_of_model_gardens_head_is_refused_beside_a_tower():
  with pytest.raises(ValueError, match='head.use_separable_conv is True; with head.tower it must'):
    small_detectors.small_task('retinanet_fpn_efficientnetlite0_sample', model={
        'head': {'use_separable_conv': True, 'tower': {'type': 'plain'}}})


def test_padded_boxes_are_those_of_the_annotations(sample_records):
  """Without augmentation every box, but no crowd, is where the resized image has it."""
  task, _ = small('fcos_fpn', sample_records)
  images, found = small_detectors.batch(
      task, f'{sample_records}/val-*.tfrecord', size=12, training=False)
  annotations = json.loads((sample_records / 'annotations/val.json').read_text())
  scale = images.shape[1] / 256
  assert found['boxes'].shape == (12, 100, 4) and found['classes'].dtype == tf.int32
  for index, source in enumerate(found['groundtruths']['source_id'].numpy()):
    expected = sorted(
        (row['category_id'], *np.round(scale * np.array([y, x, y + height, x + width]), 3))
        for row in annotations['annotations'] for x, y, width, height in [row['bbox']]
        if row['image_id'] == source and not row['iscrowd'])
    classes, boxes = found['classes'][index].numpy(), found['boxes'][index].numpy()
    rows = sorted((label, *np.round(box, 3)) for label, box in zip(classes, boxes) if label > 0)
    np.testing.assert_allclose(rows, expected, atol=2e-3)
    assert np.all(boxes[len(rows):] == -1) and np.all(classes[len(rows):] == -1)

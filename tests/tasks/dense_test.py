"""The tasks of FCOS and ATSS, and of RetinaNet with towers: steps, evaluation, inputs."""
import json

import numpy as np
import pytest
import tensorflow as tf, tf_keras

from official_ext.modeling import dense_levels
from official_ext.ops import assigners
import small_detectors


def small(name, records, **task):
  return small_detectors.small_task(
      f'{name}_efficientnetlite0_sample', annotation_file=f'{records}/annotations/val.json', **task)


def overfit(task, model, inputs, steps):
  optimizer, metrics = tf_keras.optimizers.legacy.SGD(0.01, 0.9), task.build_metrics()
  step = small_detectors.traced_step(task, model, optimizer, metrics)
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
  # The rest is the center-ness loss, at first near that of a guess.
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
  classes, boxes = (next(v for v in model.head.variables if v.name.endswith(f'{name}/kernel:0'))
                    for name in ('classes', 'boxes'))
  # New weights find nothing, and give boxes that are nearly symmetric themselves.
  classes.assign(tf.random.stateless_normal(classes.shape, [1, 2], stddev=0.3))
  boxes.assign(tf.random.stateless_normal(boxes.shape, [1, 3], stddev=0.1))
  # Make the head symmetric, so that it treats left and right alike.  The backbone pads unevenly,
  # so the features are flipped instead of the image.
  features = model.decoder(model.backbone(inputs[0]))
  for variable in model.head.variables:
    if 'kernel' in variable.name:
      variable.assign((variable + variable[:, ::-1]) / 2)
  bias = next(v for v in model.head.variables if v.name.endswith('boxes/bias:0'))
  swapped = tf.gather(boxes[:, ::-1], [0, 3, 2, 1], axis=-1)
  boxes.assign((boxes + swapped) / 2)
  bias.assign((bias + tf.gather(bias, [0, 3, 2, 1])) / 2)

  def detect(features):
    classes, raw, attributes = model.head(features)
    locations = dense_levels.grid_locations(raw)
    decoded = assigners.assigner('fcos').decode(locations, dense_levels.flatten(raw))
    return model.detection_generator(classes, decoded, attributes['centerness'])

  plain = detect(features)
  flipped = detect({level: x[:, :, ::-1] for level, x in features.items()})
  assert np.all(plain['num_detections'] > 0)
  np.testing.assert_allclose(plain['detection_scores'], flipped['detection_scores'], atol=1e-4)
  best, other = plain['detection_boxes'][:, 0].numpy(), flipped['detection_boxes'][:, 0].numpy()
  mirrored = np.stack([other[:, 0], 64 - other[:, 3], other[:, 2], 64 - other[:, 1]], -1)
  np.testing.assert_allclose(best, mirrored, atol=0.05)


def test_an_option_of_model_gardens_head_is_refused_beside_a_tower():
  with pytest.raises(ValueError, match='head.share_level_convs is False; with head.tower it must'):
    small_detectors.small_task('retinanet_fpn_efficientnetlite0_sample', model={
        'head': {'share_level_convs': False, 'tower': {'type': 'plain'}}})


def test_padded_boxes_are_those_of_the_annotations(sample_records):
  """Without augmentation every box except crowds is where the resized image has it."""
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

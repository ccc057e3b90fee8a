"""Every kind of detector trains and evaluates in half precision, with float32 boxes and losses."""
import functools
import json

import numpy as np
import pytest
import record_files
import small_detectors
import tensorflow as tf, tf_keras

from official_ext.modeling import float32_layers

SAMPLE = '{}_efficientnetlite0_sample'
# A backbone that is built, and runs without a graph, in a fraction of the time of the samples' own.
RESNET = {'backbone': {'type': 'resnet', 'resnet': {'model_id': 10, 'depth_multiplier': 0.25}}}
# Detector -> its experiment and further options of the model.
DETECTORS = {
    'retinanet': (SAMPLE.format('retinanet_fpn'), RESNET),
    'retinanet_ifpn': (SAMPLE.format('retinanet_ifpn'), {
        **RESNET, 'decoder': {'ifpn': {'solver': small_detectors.SHORT_SOLVER}}}),
    'fcos': (SAMPLE.format('fcos_fpn'), RESNET),
    'freeanchor_dynamic_head': (SAMPLE.format('freeanchor_dynamichead'), RESNET),
    'autoassign': (SAMPLE.format('autoassign_fpn'), RESNET),
    'fcos_caddet': ('fcos_caddet_sample', {'backbone': {'caddet': {'num_layers': 3}}}),
    'mask_rcnn': ('maskrcnn_fpn_resnet50_coco', {**RESNET, 'num_classes': 3}),
    'cascade_rcnn': (SAMPLE.format('fasterrcnn_fpn'), {
        **RESNET,
        'roi_sampler': {'cascade_iou_thresholds': [0.6]},
        'detection_head': {'class_agnostic_bbox_pred': True, 'cascade_class_ensemble': True}}),
}
# Their evaluation has a loss, which is compared with that of float32.
_COMPARED = ('retinanet', 'fcos', 'autoassign')


@pytest.fixture
def policy():
  """Sets the global precision policy, and float32 again at the end."""
  yield tf_keras.mixed_precision.set_global_policy
  tf_keras.mixed_precision.set_global_policy('float32')


@pytest.fixture(scope='module')
def records(tmp_path_factory):
  """Returns a file of two images with masks, and a COCO file of them."""
  folder = tmp_path_factory.mktemp('records')
  boxes = [[0, 0, 48, 48], [48, 48, 48, 48]]
  (folder / 'a.json').write_text(json.dumps({
      'images': [{'id': number, 'width': 96, 'height': 96} for number in (1, 2)],
      'categories': [{'id': 1}, {'id': 2}],
      'annotations': [
          {'id': 2 * image + label, 'image_id': image, 'category_id': label, 'iscrowd': 0,
           'bbox': [x, y, w, h], 'area': w * h,
           'segmentation': [[x, y, x + w, y, x + w, y + h, x, y + h]]}
          for image in (1, 2) for label, (x, y, w, h) in enumerate(boxes, 1)]}))
  mask = record_files.image_bytes((96, 96))
  return str(folder / 'a.json'), record_files.write(folder / 'a.tfrecord', [
      record_files.example(
          source_id=[str(number).encode()], encoded=[record_files.image_bytes((96, 96))],
          height=[96], width=[96], object__mask=[mask, mask]) for number in (1, 2)])


def _build(detector, annotations, records):
  name, options = DETECTORS[detector]
  tf_keras.utils.set_random_seed(3)
  return small_detectors.small_task(
      name, model=options, annotation_file=annotations, init_checkpoint=None,
      validation_data={'input_path': records})


def _evaluation(task, model, records):
  """Returns what a validation step returns, whose average precision is finite."""
  task.build_metrics(training=False)
  evaluation = task.validation_step(
      small_detectors.batch(task, records, 2, training=False), model)
  state = task.aggregate_logs(
      None, tf.nest.map_structure(lambda value: (value,), evaluation))
  assert np.isfinite(task.reduce_aggregated_logs(state)['AP'])
  return evaluation


@functools.cache
def _float32_loss(detector, annotations, records):
  """Returns the loss of an evaluation in float32, the global policy at this time."""
  task, model = _build(detector, annotations, records)
  return float(_evaluation(task, model, records)[task.loss])


def _one_step_of_each(detector, annotations, records):
  """Returns the losses of a training step, and the loss and results of an evaluation before it."""
  task, model = _build(detector, annotations, records)
  evaluation = _evaluation(task, model, records)
  optimizer = tf_keras.optimizers.legacy.SGD(1e-3)
  if tf_keras.mixed_precision.global_policy().name == 'mixed_float16':
    optimizer = tf_keras.mixed_precision.LossScaleOptimizer(optimizer)
  logs = task.train_step(small_detectors.batch(task, records, 2), model, optimizer)
  return logs, evaluation[task.loss], evaluation['coco_metric'][1]


@pytest.mark.slow
@pytest.mark.parametrize('detector, precision', [
    *((detector, 'mixed_bfloat16') for detector in DETECTORS), ('retinanet', 'mixed_float16')])
def test_training_and_evaluation(detector, precision, policy, records):
  expected = _float32_loss(detector, *records) if detector in _COMPARED else None
  policy(precision)
  logs, loss, results = _one_step_of_each(detector, *records)
  assert all(np.isfinite(float(value)) and value.dtype == tf.float32
             for key, value in logs.items() if key.endswith('loss'))
  if expected is not None:
    assert loss.dtype == tf.float32 and float(loss) == pytest.approx(expected, rel=0.1)
  boxes, scores = results['detection_boxes'], results['detection_scores']
  assert boxes.dtype == scores.dtype == tf.float32
  assert np.all(np.isfinite(boxes.numpy())) and np.all(np.isfinite(scores.numpy()))
  # Boxes that were ever in half precision would have few digits.
  half = tf.float16 if precision == 'mixed_float16' else tf.bfloat16
  inside = (boxes > 1.0) & (boxes < 63.0)
  if tf.reduce_any(inside):
    assert tf.reduce_any(tf.boolean_mask(boxes != tf.cast(tf.cast(boxes, half), tf.float32),
                                         inside))


def test_to_float32_leaves_everything_else():
  values = {'half': tf.constant(1.5, tf.bfloat16), 'whole': tf.constant(2), 'none': None,
            'flag': True}
  found = float32_layers.to_float32(values)
  assert found['half'].dtype == tf.float32 and float(found['half']) == 1.5
  assert found['whole'] is values['whole'] and found['none'] is None and found['flag'] is True

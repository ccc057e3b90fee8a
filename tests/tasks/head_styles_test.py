"""Detectors with the papers' heads: training steps, losses of stages, masks, evaluation."""
import io

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf, tf_keras

import record_files
import small_detectors


def _mask(columns: int) -> bytes:
  """Returns a mask of 40 x 30 pixels, the first columns of which are 1."""
  values = np.zeros((30, 40), np.uint8)
  values[:, :columns] = 1
  buffer = io.BytesIO()
  Image.fromarray(values).save(buffer, 'PNG')
  return buffer.getvalue()


@pytest.fixture(scope='module')
def records(tmp_path_factory) -> str:
  """Returns the path of two images with two boxes and masks each."""
  masks = [_mask(10), _mask(30)]
  return record_files.write(tmp_path_factory.mktemp('records') / 'two.tfrecord', [
      record_files.example(object__mask=masks, source_id=[name]) for name in (b'1', b'2')])


def check_no_norm(*heads):
  for head in heads:
    assert head.variables
    assert not [v.name for v in head.variables if 'gamma' in v.name or 'moving' in v.name]


@pytest.mark.slow
def test_retinanet_trains_evaluates_and_knows_the_loss_of_an_image(records):
  task, model = small_detectors.small_task(
      'retinanet_dyfpn_efficientnetlite0_sample', model={'head_style': 'paper'},
      use_coco_metrics=False, budget={'weight': 1.0, 'target': 0.25})
  check_no_norm(model.head)
  assert model.detection_generator.get_config()['pre_nms_top_k'] == 1000
  images, labels = small_detectors.batch(task, records, size=2)
  metrics = task.build_metrics(training=True)
  task.train_step((images, labels), model, tf_keras.optimizers.legacy.SGD(0.01), metrics)
  values = {metric.name: float(metric.result()) for metric in metrics}
  np.testing.assert_allclose(values['model_loss'], values['cls_loss'] + values['box_loss'],
                             rtol=1e-5)
  np.testing.assert_allclose(
      values['total_loss'], values['model_loss'] + values['routing/loss/budget'], rtol=1e-5)
  outputs = model(images, training=True)
  together = task.image_losses(outputs, labels)
  for i in range(len(images)):
    one = tf.nest.map_structure(lambda x, row=i: x[row:row + 1], (outputs, labels))
    np.testing.assert_allclose(together[i], task.build_losses(*one)[3], rtol=1e-5)
  inputs = small_detectors.batch(task, records, size=2, training=False)
  task.build_metrics(training=False)
  assert np.isfinite(task.validation_step(inputs, model)['loss'])


def softmax_entropy(logits, classes):
  logits = logits - logits.max(-1, keepdims=True)
  chosen = np.take_along_axis(logits, classes[..., None].astype(int), -1)[..., 0]
  return (np.log(np.exp(logits).sum(-1)) - chosen).mean()


def mask_entropy(logits, masks, classes):
  entropy = np.log1p(np.exp(-np.abs(logits))) + np.maximum(logits, 0) - logits * masks
  return entropy[classes > 0].mean()


@pytest.mark.slow
def test_a_cascade_with_masks_trains_all_stages_and_averages_their_masks(records):
  task, model = small_detectors.small_task(
      'fasterrcnn_fpn_efficientnetlite0_sample', model=small_detectors.CASCADE_WITH_MASKS)
  heads = [model.rpn_head, *model.detection_head, *model.mask_head]
  assert len(heads) == 7
  check_no_norm(*heads)
  images, labels = small_detectors.batch(task, records, size=2)
  before = [[weight.copy() for weight in head.get_weights()] for head in heads]
  task.train_step((images, labels), model, tf_keras.optimizers.legacy.SGD(0.01))
  for old, head in zip(before, heads):
    assert all(np.any(new != weight) for new, weight in zip(head.get_weights(), old)), head.name

  outputs = model(images, image_shape=labels['image_info'][:, 1], gt_boxes=labels['gt_boxes'],
                  gt_classes=labels['gt_classes'], gt_masks=labels['gt_masks'], training=True)
  assert not [name for name in outputs if 'samples' in name]
  values = task.build_losses(outputs, labels)
  stages = [{name: outputs[f'{name}{end}'].numpy().astype(np.float64) for name in (
      'class_outputs', 'class_targets', 'box_outputs', 'box_targets', 'mask_outputs',
      'mask_targets', 'mask_class_targets')} for end in ('', '_1', '_2')]
  box_losses = []
  for stage in stages:
    errors = np.abs(stage['box_outputs'] - stage['box_targets'])[stage['class_targets'] > 0]
    losses = np.where(errors < 1, errors**2 / 2, errors - 0.5)  # A beta of 1.
    box_losses.append(losses.sum() / stage['class_targets'].size)
  expected = {
      'frcnn_cls_loss': [softmax_entropy(s['class_outputs'], s['class_targets']) for s in stages],
      'frcnn_box_loss': box_losses,
      'mask_loss': [mask_entropy(s['mask_outputs'], s['mask_targets'], s['mask_class_targets'])
                    for s in stages]}
  for name, losses in expected.items():
    assert len(set(losses)) == 3
    np.testing.assert_allclose(values[name], np.dot(losses, [1, 0.5, 0.25]), rtol=1e-4)

  outputs = model(images, image_shape=labels['image_info'][:, 1], training=False)
  inputs = [model.mask_roi_aligner(outputs['decoder_features'], outputs['detection_boxes']),
            outputs['detection_classes']]
  masks = [1 / (1 + np.exp(-head(inputs).numpy().astype(np.float64))) for head in model.mask_head]
  assert np.ptp(masks, axis=0).max() > 1e-3
  np.testing.assert_allclose(outputs['detection_masks'], np.mean(masks, axis=0), atol=1e-6)

"""Exports of two-stage detectors and of Model Garden's own experiments answer as the models."""
import json

import numpy as np
from official.core import task_factory
import pytest
import tensorflow as tf
import yaml

from official_ext.serving import detectors
from official_ext.serving import export_saved_model
from official_ext.utils import experiment
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

FASTER = 'fasterrcnn_dyfpn_efficientnetlite0_sample'
SIZE = (48, 80)


def test_a_cascade_with_masks_answers_as_in_memory(tmp_path):
  options = small_detectors.CASCADE_WITH_MASKS
  _, model, module = mixed_detector.build(FASTER, SIZE, **options)
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  exported = tmp_path / 'exported'
  export_saved_model.main([
      f'--experiment={FASTER}', small_detectors.write_overrides(FASTER, tmp_path),
      '--params_override=' + yaml.safe_dump({'task': {'model': options}}, default_flow_style=True),
      '--batch_size=2', '--input_type=image_bytes', '--no-output_gates',
      f'--input_image_size={SIZE[0]},{SIZE[1]}', f'--checkpoint_path={tmp_path}/run',
      f'--export_dir={exported}'])
  detector = detectors.SavedDetector(exported)
  assert (detector.batch_size, detector.input_type) == (2, 'image_bytes')

  images = mixed_detector.images(2)
  # As a graph: operations that run one by one are not fused, and round differently.
  expected = tf.function(module.serve, autograph=False)(tf.constant(images))
  outputs = detector(images)
  assert set(expected) - set(outputs) == {f'gate_dyfpn_{level}' for level in '2345'}
  assert len(set(outputs['multiply_adds'])) == 2
  np.testing.assert_array_equal(outputs['multiply_adds'], expected['multiply_adds'])
  for name in ('detection_scores', 'detection_masks'):
    np.testing.assert_allclose(outputs[name], expected[name], atol=1e-4, err_msg=name)
  np.testing.assert_allclose(outputs['detection_boxes'], expected['detection_boxes'], atol=1e-2)
  model.decoder.inference = 'mask'
  masked = tf.function(module.serve, autograph=False)(tf.constant(images))
  for name in ('detection_scores', 'detection_masks', 'multiply_adds'):
    np.testing.assert_allclose(masked[name], expected[name], atol=1e-4, rtol=1e-6)

  # A single image is filled up to a batch of two, and has the same answer as in a full batch.
  alone = detector(images[1:])
  assert len(alone['multiply_adds']) == 1
  np.testing.assert_allclose(
      alone['detection_scores'][0], outputs['detection_scores'][1], atol=1e-5)

  description = json.loads((exported / 'export.json').read_text(encoding='utf-8'))
  assert description['input_image_size'] == list(SIZE)
  gmac, costs = description['gmac'], outputs['multiply_adds'] / 1e9
  assert gmac['static'] < gmac['minimum'] <= costs.min() < costs.max() <= gmac['maximum'] * 1.000001


@pytest.mark.parametrize('cascade', [False, True])
def test_numpy_finishes_what_two_stages_leave(tmp_path, cascade):
  options = {**small_detectors.CASCADE_WITH_MASKS, 'include_mask': False} if cascade else {}
  _, model, module = mixed_detector.build(FASTER, SIZE, **options)
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  export_saved_model.main([
      f'--experiment={FASTER}', small_detectors.write_overrides(FASTER, tmp_path),
      '--params_override=' + yaml.safe_dump({'task': {'model': options}}, default_flow_style=True,
                                            width=10**6),
      '--nms=none', f'--input_image_size={SIZE[0]},{SIZE[1]}', f'--checkpoint_path={tmp_path}/run',
      f'--export_dir={tmp_path}/exported'])
  images = mixed_detector.images(2)
  found = detectors.SavedDetector(tmp_path / 'exported')(images)
  expected = tf.function(module.serve, autograph=False)(tf.constant(images))
  assert 0 < np.min(expected['num_detections'])
  np.testing.assert_array_equal(found['num_detections'], expected['num_detections'])
  np.testing.assert_allclose(
      found['detection_scores'], expected['detection_scores'], atol=1e-4)
  np.testing.assert_allclose(found['detection_boxes'], expected['detection_boxes'], atol=1e-2)
  np.testing.assert_array_equal(found['multiply_adds'], expected['multiply_adds'])


def test_random_gates_of_an_export_draw_at_every_call(tmp_path):
  """A variable counts the draws, so an export keeps all variables."""
  name = 'retinanet_dyfpn_efficientnetlite0_sample'
  options = {'decoder': {'dyfpn': {'gate': {'type': 'random', 'random_probability': 0.5}}}}
  _, model = small_detectors.small_task(name, model=options)
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  export_saved_model.main([
      f'--experiment={name}', small_detectors.write_overrides(name, tmp_path),
      '--params_override=' + yaml.safe_dump({'task': {'model': options}}, default_flow_style=True),
      f'--checkpoint_path={tmp_path}/run', f'--export_dir={tmp_path}/exported'])
  detector = detectors.SavedDetector(tmp_path / 'exported')
  costs = [detector(mixed_detector.images(8))['multiply_adds'] for _ in range(2)]
  assert not np.array_equal(*costs)


def test_batches_of_one_and_five(tmp_path):
  name = 'retinanet_drfpn_efficientnetlite0_sample'
  _, model, module = mixed_detector.build(name, SIZE, head_style='paper')
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  export_saved_model.main([
      f'--experiment={name}', small_detectors.write_overrides(name, tmp_path),
      '--input_type=tf_example',
      '--params_override=task.model.head_style=paper',
      f'--input_image_size={SIZE[0]},{SIZE[1]}', f'--checkpoint_path={tmp_path}/run',
      f'--export_dir={tmp_path}/exported'])
  detector = detectors.SavedDetector(tmp_path / 'exported')
  images = mixed_detector.images(5)
  for batch in (images, images[:1]):
    expected, outputs = module.serve(tf.constant(batch)), detector(batch)
    assert set(outputs) == set(expected)
    np.testing.assert_allclose(outputs['multiply_adds'], expected['multiply_adds'], rtol=1e-6)
    np.testing.assert_allclose(
        outputs['detection_scores'], expected['detection_scores'], atol=1e-4)
    np.testing.assert_allclose(outputs['detection_boxes'], expected['detection_boxes'], atol=1e-2)


def test_an_experiment_of_model_garden(tmp_path):
  name = 'retinanet_resnetfpn_coco'
  overrides = yaml.safe_dump({'task': {'model': {
      'input_size': [64, 64, 3], 'max_level': 5, 'num_classes': 4,
      'backbone': {'resnet': {'model_id': 18}}, 'decoder': {'fpn': {'num_filters': 16}},
      'head': {'num_convs': 1, 'num_filters': 16}}}}, default_flow_style=True)
  params = experiment.resolve(name, params_override=overrides)
  model = task_factory.get_task(params.task).build_model()
  bias, = (v for v in model.head.trainable_variables if v.name.endswith('scores/bias:0'))
  bias.assign(tf.linspace(-2.0, 0.0, bias.shape[0]))
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  export_saved_model.main([
      f'--experiment={name}', f'--params_override={overrides}',
      f'--checkpoint_path={tmp_path}/run', f'--export_dir={tmp_path}/exported'])

  detector = detectors.SavedDetector(tmp_path / 'exported')
  outputs = detector(mixed_detector.images(3))
  assert outputs['detection_scores'].max() == pytest.approx(0.5, abs=0.05)
  gmac = detector.description['gmac']
  assert gmac['static'] == gmac['minimum'] == gmac['maximum']
  np.testing.assert_allclose(outputs['multiply_adds'], [gmac['static'] * 1e9] * 3, rtol=1e-6)

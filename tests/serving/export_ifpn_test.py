"""An exported detector with an implicit pyramid gives equal answers, and stops early."""
import numpy as np
import pytest
import tensorflow as tf
import yaml

from official_ext.ops import fixed_point
from official_ext.serving import detection
from official_ext.serving import detectors
from official_ext.serving.engines import catalog
from official_ext.serving import export_saved_model
from official_ext.serving import signatures
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

IFPN = 'retinanet_ifpn_efficientnetlite0_sample'


def _options(tolerance):
  return {'max_level': 4, 'decoder': {'ifpn': {'num_filters': 16, 'solver': {
      **small_detectors.SHORT_SOLVER, 'tolerance': tolerance, 'inference_evaluations': 6}}}}


def _median_residual(model, images):
  """Returns the median over the images of the residual after three evaluations."""
  module = detection.RoutedDetectionModule(
      small_detectors.small_experiment(IFPN, model=_options(0.0)), model=model,
      input_image_size=[64, 64])
  features = model.backbone(module.preprocess(tf.constant(images))[0], training=False)
  basis = model.decoder.basis(features)
  start = [tf.zeros_like(level) for level in basis.values()]
  solution = fixed_point.solve(model.decoder.function(basis), start, max_evaluations=3)
  return float(np.median(solution.residuals[2]))


def test_exported_answers_as_in_memory_and_stops_early(tmp_path):
  images = mixed_detector.images(5)
  _, untrained = small_detectors.small_task(IFPN, model=_options(0.0))
  small = _options(_median_residual(untrained, images) * 1.0001)
  _, model = small_detectors.small_task(IFPN, model=small)
  model.set_weights(untrained.get_weights())
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  export_saved_model.main([
      f'--experiment={IFPN}', small_detectors.write_overrides(IFPN, tmp_path),
      '--params_override=' + yaml.safe_dump({'task': {'model': small}}, default_flow_style=True),
      '--input_image_size=64,64', f'--checkpoint_path={tmp_path}/run',
      f'--export_dir={tmp_path}/exported'])
  exported = detectors.SavedDetector(tmp_path / 'exported')
  params = small_detectors.small_experiment(IFPN, model=small)
  module = detection.RoutedDetectionModule(params, model=model, input_image_size=[64, 64])

  together = exported(images)
  alone = [exported(image[None]) for image in images]
  expected = module.serve(tf.constant(images))
  for name in ('multiply_adds', 'executed_multiply_adds', 'detection_scores'):
    np.testing.assert_allclose(together[name], expected[name], 1e-5, 1e-4, err_msg=name)
  for row, answer in enumerate(alone):
    np.testing.assert_array_equal(answer['multiply_adds'][0], together['multiply_adds'][row])
    np.testing.assert_allclose(
        answer['detection_scores'][0], together['detection_scores'][row], atol=1e-4)
  cost = module.cost
  assert len(set(together['multiply_adds'])) > 1
  assert np.all(together['multiply_adds'] >= cost.minimum * 0.999999)
  assert np.all(together['multiply_adds'] <= cost.maximum * 1.000001)


def test_openvino_ends_to_compile_it_and_answers_the_same(tmp_path):
  pytest.importorskip('openvino')
  options = {**_options(0.5), 'detection_generator': {'apply_nms': False}}
  _, model = small_detectors.small_task(IFPN, model=options)
  module = detection.RoutedDetectionModule(
      small_detectors.small_experiment(IFPN, model=options), model=model,
      input_image_size=[64, 64])
  export_saved_model.save(module, tmp_path, 'image_tensor', module.image_size)
  engine = catalog.engine('openvino')
  engine.convert(tmp_path, signatures.DEFAULT, tmp_path)
  images = mixed_detector.images(3)
  outputs, expected = engine.Model(tmp_path)(images), module.serve(tf.constant(images))
  for name in ('decoded_boxes', 'decoded_box_scores', 'multiply_adds'):
    np.testing.assert_allclose(outputs[name], expected[name], 1e-5, 1e-3, err_msg=name)

"""A detector with an implicit pyramid, exported: equal answers, and early exit that saves."""
import numpy as np
import pytest
import tensorflow as tf
import yaml

from official_ext.serving import detection
from official_ext.serving import export_saved_model
from official_ext.utils import saved_models
import detectors
import mixed_detector

pytestmark = pytest.mark.slow

IFPN = 'retinanet_ifpn_efficientnetlite0_sample'


def test_exported_answers_as_in_memory_and_stops_early(tmp_path):
  small = {'max_level': 4, 'decoder': {'ifpn': {'num_filters': 16, 'solver': {
      'tolerance': 0.1, 'inference_evaluations': 15}}}}
  _, model = detectors.small_task(IFPN, model=small)
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  config = {**detectors.SMALL, 'task': {**detectors.SMALL['task'], 'model': {
      **detectors.SMALL['task']['model'], **small}}}
  (tmp_path / 'small.yaml').write_text(yaml.safe_dump(config), encoding='utf-8')
  export_saved_model.main([
      f'--experiment={IFPN}', f'--config_file={tmp_path}/small.yaml',
      '--input_image_size=64,64', f'--checkpoint_path={tmp_path}/run',
      f'--export_dir={tmp_path}/exported'])
  exported = saved_models.SavedDetector(tmp_path / 'exported')
  params = detectors.small_experiment(IFPN, model=small)
  module = detection.RoutedDetectionModule(params, model=model, input_image_size=[64, 64])

  images = mixed_detector.images(5)
  images[0] = 128  # one color, an easier image than the others
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

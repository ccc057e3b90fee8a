"""Images that an export is given spend the share that a budget says, without annotations."""
import types

import numpy as np
from PIL import Image
import pytest
import tensorflow as tf, tf_keras

from official_ext.ops import routing
from official_ext.serving import budget_images
from official_ext.serving import detection
from official_ext.serving import detectors
from official_ext.serving import export_saved_model
from official_ext.utils import command_line
import budget_detector
import mixed_detector
import small_detectors

COUNT = 24
BUDGETS = (0.2, 0.5, 0.8)


@pytest.fixture(scope='module')
def photos(tmp_path_factory):
  """Files of two sizes; their contrast and brightness, and so their logits, are far apart."""
  folder = tmp_path_factory.mktemp('photos')
  random = np.random.default_rng(0)
  for number in range(COUNT):
    pixels = 128 + random.normal(0, 5 + 4 * number, [64, 80 if number % 3 else 64, 3])
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(folder / f'{number:02}.png')
  return folder


def _pixels(folder):
  return [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]


def _shares(module, images):
  """Returns what images spend of what gates can save, in the mean, at each of `BUDGETS`."""
  inputs, _ = module.network_inputs(images)
  found = []
  for budget in BUDGETS:
    with routing.RoutingTape() as tape, routing.spending(budget):
      features = module.model.backbone(inputs, training=False)
      module.model.head(module.model.decoder(features, training=False))
    record = tape.routing()
    found.append(np.mean((record.executed - record.minimum) / (record.maximum - record.minimum)))
  return found


def _module(part):
  """Returns the export module of a network whose cost follows a budget, for 64 pixels."""
  tf_keras.utils.set_random_seed(0)
  name, options = small_detectors.BUDGET_NETWORKS[part]
  task = {'budget': {'kind': 'drawn', 'weight': 1.0}, 'model': options}
  _, model = small_detectors.small_task(name, **task)
  return detection.RoutedDetectionModule(
      small_detectors.small_experiment(name, **task), model=model, input_image_size=[64, 64])


def test_gates_of_images_spend_the_wanted_share(photos):
  module = budget_detector.module()
  before = _shares(module, _pixels(photos))
  assert np.abs(np.subtract(before, BUDGETS)).max() > 0.1  # Other images set these gates.
  assert budget_images.calibrate(module, [photos]) == COUNT
  np.testing.assert_allclose(_shares(module, _pixels(photos)), BUDGETS, 0, 1.5 / COUNT)


@pytest.mark.slow
def test_gates_of_positions_spend_the_wanted_share(photos):
  module, images = _module('head'), _pixels(photos)
  with routing.spending(0.5):  # Training set its norms by other images.
    features = module.model.backbone(2 * module.network_inputs(images)[0] + 1, training=True)
    module.model.head(module.model.decoder(features, training=True), training=True)
  before = _shares(module, images)
  assert np.abs(np.subtract(before, BUDGETS)).max() > 0.1
  budget_images.calibrate(module, [photos])
  np.testing.assert_allclose(_shares(module, images), BUDGETS, 0, 0.05)


def test_many_images_are_read_at_equal_distances(photos, monkeypatch):
  calls = []
  monkeypatch.setattr(budget_images.budget_calibration, 'MAX_IMAGES', 4)
  monkeypatch.setattr(budget_images.budget_calibration, 'can_calibrate', lambda model: True)
  monkeypatch.setattr(budget_images.budget_calibration, 'calibrate_by',
                      lambda model, batches, number: calls.append([*batches()]))
  module = types.SimpleNamespace(model=None, image_size=[64, 64], network_inputs=lambda images: (
      tf.constant(images[0], tf.float32)[None], None))
  assert budget_images.calibrate(module, [photos]) == 4
  batches, = calls
  # Networks that have several sizes of inputs get batches of one size.
  assert sorted(batch.shape.as_list() for batch in batches) == [[2, 64, 64, 3], [2, 64, 80, 3]]
  expected = {path: np.asarray(Image.open(photos / path), np.float32)
              for path in ('00.png', '08.png', '15.png', '23.png')}
  np.testing.assert_array_equal(
      [batch for batch in batches if batch.shape[2] == 64][0],
      [expected['00.png'], expected['15.png']])


@pytest.mark.parametrize('part, sentence', [
    ('decoder', 'a number of evaluations, which images do not change'),
    (None, 'takes no budget; its gates must be trained with budget_input')])
def test_networks_without_such_gates_are_refused(part, sentence, photos):
  module = _module(part) if part else mixed_detector.build(
      'retinanet_dyfpn_efficientnetlite0_sample')[2]
  with pytest.raises(command_line.CommandError, match=f'--budget_images: .*{sentence}'):
    budget_images.calibrate(module, [photos])


def test_images_that_cannot_be_used_are_named(tmp_path):
  module = budget_detector.module()
  with pytest.raises(command_line.CommandError, match=f'--budget_images={tmp_path} holds no image'):
    budget_images.calibrate(module, [tmp_path])
  Image.fromarray(np.zeros([1, 500, 3], np.uint8)).save(tmp_path / 'line.png')
  with pytest.raises(command_line.CommandError, match='line.png: nothing is left of .* 500 x 1'):
    budget_images.calibrate(module, [tmp_path])
  (tmp_path / 'line.png').write_bytes(b'no image')
  with pytest.raises(command_line.CommandError, match='--budget_images: .*line.png'):
    budget_images.calibrate(module, [tmp_path])


@pytest.mark.slow
def test_an_export_is_made_for_its_images(photos, tmp_path):
  module = budget_detector.module()
  export_saved_model.main([*budget_detector.export_command(module, tmp_path), '--budget_images',
                           str(photos)])
  saved = detectors.SavedDetector(tmp_path / 'saved')
  assert saved.description['budget_images'] == COUNT
  saved.set_budget(0.5)
  spent = np.mean([saved(image[None])['multiply_adds'] for image in _pixels(photos)])
  cost = module.cost
  assert (spent - cost.minimum) / (cost.maximum - cost.minimum) == pytest.approx(
      0.5, abs=1.5 / COUNT)

"""`task.resize.rule=paper`: training, evaluation and export of wide and tall images."""
import io

import numpy as np
from official.core import train_utils
from PIL import Image
import pytest
import tensorflow as tf, tf_keras

from official_ext.dataloaders import image_sizes
from official_ext.serving import export_modules
from official_ext.serving import export_saved_model
from official_ext.tasks import canvas_trainer
from official_ext.utils import experiment
import record_files
import small_detectors

RESIZE = {'rule': 'paper', 'short_side': 32, 'long_side': 48, 'aspect_ratios': []}
SIZES = [(24, 36), (36, 24), (20, 44), (30, 20)]  # height, width
CANVASES = {(32, 64), (64, 32)}


def png(number, size):
  """Returns an image of noise with a red rectangle, as uint8 and as a PNG file."""
  pixels = np.random.default_rng(number).integers(0, 256, [*size, 3], np.uint8)
  pixels[2:14, 4:16] = (250, 10, 10)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return pixels, buffer.getvalue()


@pytest.fixture(scope='module')
def records(tmp_path_factory):
  path = tmp_path_factory.mktemp('records') / 'data.tfrecord'
  return record_files.write(path, [
      record_files.example(
          encoded=[png(number, (height, width))[1]], source_id=[str(number + 1).encode()],
          height=[height], width=[width], object__class__label=[1],
          object__area=[144.0], object__is_crowd=[0],
          object__bbox__xmin=[4 / width], object__bbox__xmax=[16 / width],
          object__bbox__ymin=[2 / height], object__bbox__ymax=[14 / height])
      for number, (height, width) in enumerate(SIZES)])


def paper_experiment(name, records):
  """Returns a small experiment with the papers' rule and a batch of two images."""
  data = {'input_path': records, 'global_batch_size': 2, 'shuffle_buffer_size': 1,
          'parser': {'aug_scale_min': 1.0, 'aug_scale_max': 1.0}}
  # Model Garden's smallest ResNet.
  model = {'input_size': [None, None, 3],
           'backbone': {'type': 'resnet', 'resnet': {'model_id': 10}}}
  return small_detectors.small_experiment(
      f'{name}_efficientnetlite0_sample', resize=RESIZE, annotation_file=None,
      train_data=data, validation_data=data, init_checkpoint=None,
      frozen_stages=['stem', 'conv2_x'], model=model)


def trained(config, is_traced):
  """Trains two steps, one of each canvas, and evaluates.

  Args:
    config: the experiment.
    is_traced: whether steps are graphs, which take longer to trace than all else.

  Returns:
    The trainer, the weights of the backbone before, and the logs of training and evaluation.
  """
  task = small_detectors.task_factory.get_task(config.task)
  trainer = train_utils.create_trainer(
      config, task, train=True, evaluate=True, trainer_cls=canvas_trainer.CanvasTrainer)
  before = [variable.numpy() for variable in trainer.model.backbone.variables]
  tf.config.run_functions_eagerly(not is_traced)
  try:
    return trainer, before, trainer.train(tf.constant(2)), trainer.evaluate(tf.constant(-1))
  finally:
    tf.config.run_functions_eagerly(False)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['retinanet_dyfpn', 'fasterrcnn_fpn', 'fcos_fpn'])
def test_training_evaluation_and_serving_see_the_same_images(name, records, tmp_path):
  config = paper_experiment(name, records)
  trainer, before, training, evaluation = trained(config, is_traced=name == 'fcos_fpn')
  assert np.isfinite(training['training_loss']) and 0 <= evaluation['AP'] <= 1
  assert trainer.global_step == 2
  assert set(trainer._steps) == {(kind, size) for kind in ('train', 'eval') for size in CANVASES}

  task, model = trainer.task, trainer.model
  kept = sum(np.all(old == variable) for old, variable in zip(before, model.backbone.variables))
  # A convolution and a norm in the stem, three of both in the block of conv2_x; a norm has four.
  assert kept == 4 * (1 + 4)
  module = export_modules.make_module(config, model)
  assert {tuple(size) for size in module.description['canvases']} == CANVASES
  files = []
  for images, labels in task.build_inputs(config.task.validation_data):
    expected = model(images, image_shape=labels['image_info'][:, 1],
                     anchor_boxes=labels.get('anchor_boxes'), training=False)
    for row, number in enumerate(labels['groundtruths']['source_id'].numpy() - 1):
      pixels, file = png(number, SIZES[number])
      outputs = module.serve(tf.constant(pixels[None]))
      np.testing.assert_allclose(outputs['image_info'][0], labels['image_info'][row], rtol=1e-6)
      for output in ('detection_boxes', 'detection_scores'):
        np.testing.assert_allclose(outputs[output][0], expected[output][row], atol=1e-3)
      cost = module.module_of(SIZES[number]).cost
      assert cost.minimum <= outputs['multiply_adds'][0] * (1 + 1e-6)
      files.append((file, outputs))
  assert len(files) == len(SIZES)
  if name == 'fcos_fpn':
    check_files_of_all_sizes(config, model, files, tmp_path)


def check_files_of_all_sizes(config, model, files, folder):
  """Checks that an export takes image files of both orientations as one batch."""
  module = export_modules.make_module(config, model, input_type='image_bytes')
  differences = export_saved_model.save(module, folder, 'image_bytes', module.image_size)
  assert max(differences.values()) < 1e-4
  serve = tf.saved_model.load(str(folder)).signatures['serving_default']
  outputs = serve(inputs=tf.constant([file for file, _ in files]))
  for row, (_, expected) in enumerate(files):
    for name in ('detection_boxes', 'detection_scores', 'image_info', 'multiply_adds'):
      np.testing.assert_allclose(outputs[name][row], expected[name][0], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('override,message', [
    ('resize: {rule: mmdet}', r'task.resize.rule is .mmdet.; allowed are garden and paper'),
    ('model: {input_size: [64, 64, 3]}', r'input_size is \[64, 64, 3\]'),
    ('resize: {short_side: 50}', 'long_side is 48'),
    ('resize: {aspect_ratios: [0.5]}', 'aspect_ratios'),
    ('train_data: {parser: {aug_scale_min: 0.8}}', 'train_data.parser.aug_scale_min is 0.8'),
    ('validation_data: {parser: {pad: false}}', 'validation_data.parser.pad is False'),
])
def test_options_that_do_not_agree_are_named(override, message, records):
  config = paper_experiment('retinanet_fpn', records)
  image_sizes.check(config.task)
  experiment._override_by_text(config, f'task: {{{override}}}')
  with pytest.raises(ValueError, match=message):
    image_sizes.check(config.task)
  if 'mmdet' in override:
    with pytest.raises(ValueError, match=message):
      small_detectors.task_factory.get_task(config.task)


def test_an_unknown_size_says_how_to_train(records):
  config = paper_experiment('fcos_fpn', records)
  task = small_detectors.task_factory.get_task(config.task)
  with pytest.raises(ValueError, match='train by python -m official_ext.train'):
    task.validation_step((tf_keras.Input([None, None, 3]), {}), None)

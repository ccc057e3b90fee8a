"""Exports whose convolutions have fewer multiplications answer as the model does."""
import json

import numpy as np
import pytest
import tensorflow as tf
import yaml

from official_ext.ops import export_expectation
from official_ext.ops import winograd_conv
from official_ext.serving import convert
from official_ext.serving import detection
from official_ext.serving import detectors
from official_ext.serving import export_saved_model
from official_ext.serving.compiling import frozen
from official_ext.serving.compiling import graph_winograd
from official_ext.serving import input_types
from official_ext.utils import command_line
from official_ext.utils import experiment
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

NAME = 'fcos_dynamichead_efficientnetlite0_sample'
ONE_BLOCK = '--params_override=task.model.head.tower.dynamic.num_blocks=1'
LISTED = f'{export_expectation.WEIGHTS_SCOPE}/MatMul'


def _nodes(function):
  graph = function.graph.as_graph_def()
  return [node.name for nodes in (graph.node, *(each.node_def for each in graph.library.function))
          for node in nodes]


@pytest.fixture(autouse=True)
def always(monkeypatch):
  """Replaces every convolution that can be: the maps of these tests are small."""
  monkeypatch.setattr(winograd_conv, '_WORTH', float('inf'))
  monkeypatch.setattr(graph_winograd, '_LEAST_SAVING', float('-inf'))


def test_a_dynamic_head_answers_as_the_model(tmp_path):
  _, model, module = mixed_detector.build(NAME, head={'tower': {'dynamic': {'num_blocks': 1}}})
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  arguments = [f'--experiment={NAME}', small_detectors.write_overrides(NAME, tmp_path),
               f'--checkpoint_path={tmp_path}/run', ONE_BLOCK]
  images = mixed_detector.images(3)
  expected = module.serve(tf.constant(images))
  path = tmp_path / 'saved'
  export_saved_model.main([*arguments, f'--export_dir={path}'])
  description = json.loads((path / 'export.json').read_text(encoding='utf-8'))
  saved = tf.saved_model.load(str(path)).signatures['serving_default']
  # Tiles of all positions, and those of lists, whose weights are made as a matrix product.
  assert description['winograd_convolutions'] > 0
  assert all(any(name in node for node in _nodes(saved))
             for name in (export_expectation.WEIGHTS_SCOPE, LISTED))
  actual = detectors.SavedDetector(path)(images)
  assert np.std(expected['detection_scores']) > 0
  np.testing.assert_allclose(
      actual['detection_scores'], expected['detection_scores'], atol=1e-4, rtol=0)
  np.testing.assert_array_equal(actual['multiply_adds'], expected['multiply_adds'])
  with pytest.raises(command_line.CommandError, match='export with --no-winograd'):
    convert._check_weights(saved, 'dynamic_range')
  without, found = _frozen(module, [*arguments, '--no-winograd', f'--export_dir={path}'])
  assert found['winograd_convolutions'] == 0
  assert not any(export_expectation.WEIGHTS_SCOPE in node for node in _nodes(without))


def _frozen(module, arguments):
  """Returns the function that the command would write, and what was folded."""
  args = export_saved_model._parse_arguments(arguments)
  _, written = export_saved_model._network_functions(module, args)
  return frozen.freeze_as_told(written, module, args.freeze, False, args.winograd)


def test_lists_have_no_tiles_where_their_weights_are_too_many(tmp_path, monkeypatch):
  _, model, module = mixed_detector.build(NAME, head={'tower': {'dynamic': {'num_blocks': 1}}})
  weights = sum(4 * np.prod(variable.shape) for variable in model.variables)
  variables = []
  for room in (weights, weights / 2):
    monkeypatch.setattr(frozen, '_ADVISABLE', room)
    function, _ = _frozen(module, [
        f'--experiment={NAME}', f'--checkpoint_path={tmp_path}', f'--export_dir={tmp_path}/saved'])
    assert not any(LISTED in name for name in _nodes(function))
    variables.append(sum(4 * np.prod(variable.shape) for variable in function.variables_of_graph))
  # The largest weights are variables if all together are too many, and may be twice as many then.
  assert variables[0] < 0.01 * weights and weights < variables[1] < 2 * weights


def test_a_loop_over_images_of_several_sizes(tmp_path):
  input_type = 'image_bytes'
  name = 'retinanet_fpn_efficientnetlite0_sample'
  overrides = small_detectors.small_overrides(name)
  overrides['task']['model'] |= {'input_size': [None, None, 3], 'max_level': 4}
  overrides['task']['resize'] = {
      'rule': 'paper', 'short_side': 64, 'long_side': 96, 'aspect_ratios': []}
  (tmp_path / 'sizes.yaml').write_text(yaml.safe_dump(overrides))
  model = detection.build_model(
      experiment.resolve(name, [str(tmp_path / 'sizes.yaml')], lock=False))
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  outputs = []
  for option in ('--winograd', '--no-winograd'):
    export_saved_model.main([
        f'--experiment={name}', f'--config_file={tmp_path}/sizes.yaml', option,
        f'--checkpoint_path={tmp_path}/run', f'--input_type={input_type}',
        f'--export_dir={tmp_path}/{option}'])
    loaded = tf.saved_model.load(f'{tmp_path}/{option}').signatures['serving_default']
    outputs.append([loaded(inputs=input_types.encode(images, input_type))
                    for images in (mixed_detector.images(1), mixed_detector.images(1, (90, 50)))])
  assert json.loads((tmp_path / '--winograd/export.json').read_text())['winograd_convolutions'] > 0
  for actual, expected in zip(*outputs):
    np.testing.assert_allclose(
        actual['detection_scores'], expected['detection_scores'], atol=1e-5, rtol=0)

"""Exports whose convolutions have fewer multiplications answer as the model does."""
import json

import numpy as np
import pytest
import tensorflow as tf

from official_ext.ops import winograd_conv
from official_ext.serving import detectors
from official_ext.serving import export_saved_model
from official_ext.serving.compiling import graph_winograd
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

NAME = 'fcos_dynamichead_efficientnetlite0_sample'


def _nodes(path):
  graph = tf.saved_model.load(str(path)).signatures['serving_default'].graph.as_graph_def()
  return [node.name for each in graph.library.function for node in each.node_def]


def test_a_dynamic_head_answers_as_the_model(monkeypatch, tmp_path):
  # The maps of the test are small.
  monkeypatch.setattr(winograd_conv, '_WORTH', float('inf'))
  monkeypatch.setattr(graph_winograd, '_LEAST_SAVING', float('-inf'))
  _, model, module = mixed_detector.build(NAME)
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(tmp_path / 'run' / 'ckpt')
  arguments = [f'--experiment={NAME}', small_detectors.write_overrides(NAME, tmp_path),
               f'--checkpoint_path={tmp_path}/run']
  images = mixed_detector.images(3)
  expected = module.serve(tf.constant(images))
  for option in ('--winograd', '--no-winograd'):
    path = tmp_path / option
    export_saved_model.main([*arguments, option, f'--export_dir={path}'])
    description = json.loads((path / 'export.json').read_text(encoding='utf-8'))
    has_tiles = any(winograd_conv.WEIGHTS_SCOPE in name for name in _nodes(path))
    assert (description['winograd_convolutions'] > 0) == has_tiles == (option == '--winograd')
    actual = detectors.SavedDetector(path)(images)
    assert np.std(expected['detection_scores']) > 0
    np.testing.assert_allclose(
        actual['detection_scores'], expected['detection_scores'], atol=1e-4, rtol=0)
    np.testing.assert_array_equal(actual['multiply_adds'], expected['multiply_adds'])

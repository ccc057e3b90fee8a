"""Exports whose laterals run in the Fourier domain answer as the model does."""
import importlib.util
import json

import numpy as np
import pytest
import tensorflow as tf

from official_ext.serving import convert
from official_ext.serving import detectors
from official_ext.serving import export_saved_model
from official_ext.serving.compiling import graph_fourier
from official_ext.utils import command_line
import mixed_detector
import small_detectors

pytestmark = pytest.mark.slow

DYFPN = 'retinanet_dyfpn_efficientnetlite0_sample'
NAMES = (DYFPN, 'retinanet_inception_fpn_efficientnetlite0_sample')


def _arguments(name, folder):
  _, model, module = mixed_detector.build(name)
  tf.train.Checkpoint(model=model, **model.checkpoint_items).save(folder / 'run' / 'ckpt')
  return module, [
      f'--experiment={name}', small_detectors.write_overrides(name, folder),
      f'--checkpoint_path={folder}/run', '--laterals=fourier']


@pytest.mark.parametrize('name', NAMES)
def test_answers_as_the_model_and_is_converted(monkeypatch, tmp_path, name):
  monkeypatch.setattr(graph_fourier, '_WORTH', float('inf'))  # The maps of the test are small.
  module, arguments = _arguments(name, tmp_path)
  path = tmp_path / 'exported'
  export_saved_model.main([*arguments, '--nms=portable', f'--export_dir={path}'])
  description = json.loads((path / 'export.json').read_text(encoding='utf-8'))
  assert description['fourier_laterals'] == 3
  images = mixed_detector.images(3)
  actual, expected = detectors.SavedDetector(path)(images), module.serve(tf.constant(images))
  assert np.std(expected['detection_scores']) > 0
  np.testing.assert_allclose(
      actual['detection_scores'], expected['detection_scores'], atol=1e-5, rtol=0)
  # The costs are those of the network's definition.
  np.testing.assert_array_equal(actual['multiply_adds'], expected['multiply_adds'])
  if name == DYFPN:
    assert set(np.ravel(actual['gate_dyfpn_3'])) == {0.0, 1.0}
  if importlib.util.find_spec('openvino'):
    convert.main(['--to=openvino', f'--saved_model={path}', f'--output_dir={tmp_path}/converted'])
    report = json.loads((tmp_path / 'converted/conversion.json').read_text(encoding='utf-8'))
    assert report['conditionals'] == (6 if name == DYFPN else 0)


def test_says_if_no_lateral_is_worth_it(tmp_path, capsys):
  _, arguments = _arguments(DYFPN, tmp_path)
  export_saved_model.main([*arguments, f'--export_dir={tmp_path}/exported'])
  assert 'No lateral runs in the Fourier domain' in ''.join(capsys.readouterr())


@pytest.mark.parametrize('option, message', [
    ('--no-freeze', '--laterals=fourier transforms constants, and with --no-freeze'),
    ('--laterals=fast', "argument --laterals: invalid choice: 'fast' (choose from 'folded', "
     "'fourier')")])
def test_refuses_options_that_contradict(tmp_path, capsys, option, message):
  with pytest.raises((command_line.CommandError, SystemExit)) as caught:
    export_saved_model.main([
        f'--experiment={DYFPN}', f'--checkpoint_path={tmp_path}', '--laterals=fourier', option,
        f'--export_dir={tmp_path}/exported'])
  assert message in str(caught.value) + capsys.readouterr().err
  assert not (tmp_path / 'exported').exists()

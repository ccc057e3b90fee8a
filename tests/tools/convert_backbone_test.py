"""Weights of Keras become checkpoints that compute the features of their network."""
import hashlib
import json
import pathlib

import numpy as np
from official.vision.modeling import backbones
import pytest
import source_networks

from official_ext.modeling.backbones import imported
from official_ext.tasks import initialization
from official_ext.tools import convert_backbone
from official_ext.utils import command_line
from official_ext.utils.source_weights import conversion
from official_ext.utils.source_weights import keras_files

SIZE = (64, 32)
_STOCK = {'resnet': 'ResNet', 'mobilenet': 'MobileNet', 'efficientnet': 'EfficientNet'}


@pytest.fixture(scope='module')
def network():
  return source_networks.keras_network('mobilenet_v2', SIZE)


@pytest.fixture(scope='module')
def tensors(network, tmp_path_factory):
  path = tmp_path_factory.mktemp('weights') / 'weights.h5'
  network.save_weights(str(path))
  return keras_files.read(path)


@pytest.fixture(scope='module')
def backbone():
  return imported.ImportedBackbone('mobilenet_v2', 'keras')


def check_features(name, network, backbone, size, tolerance=1e-5):
  """Asserts equal features for random pixels."""
  pixels = np.random.default_rng(1).integers(0, 256, (2, *size, 3)).astype(np.float32)
  wanted = source_networks.keras_features(name, network, pixels)
  found = backbone(source_networks.normalized(pixels), training=False)
  for level, values in wanted.items():
    np.testing.assert_allclose(
        found[level], values, rtol=0, atol=tolerance * np.abs(values).max())


def convert(network, path):
  """Saves a network, and runs the command."""
  (network.save if path.suffix == '.keras' else network.save_weights)(str(path))
  convert_backbone.main([f'--weights={path}', f'--output_dir={path.parent / "out [1]"}'])
  return path.parent / 'out [1]'


def test_the_command(network, backbone, tmp_path, capsys):
  output = convert(network, tmp_path / 'weights.keras')
  origin = json.loads((output / 'origin.json').read_text())
  overrides = origin['params_override']
  assert f'--params_override={overrides}' in capsys.readouterr().out
  assert overrides == (
      f'task.init_checkpoint={output},task.init_checkpoint_modules=backbone,'
      'task.model.backbone.type=imported,task.model.backbone.imported.network=mobilenet_v2,'
      'task.model.backbone.imported.source=keras')
  assert (origin['network'], origin['source'], origin['left_out']) == ('mobilenet_v2', 'keras', [])
  assert origin['sha256'] == hashlib.sha256(
      (tmp_path / 'weights.keras').read_bytes()).hexdigest()
  backbone.set_weights([0 * value for value in backbone.get_weights()])
  initialization.load({'backbone': backbone}, str(output), 'backbone')
  check_features('mobilenet_v2', network, backbone, SIZE)


def test_a_resnext_has_a_type_of_its_own():
  assert convert_backbone.overrides('out', {'network': 'resnext101_64x4d', 'source': 'x'}) == (
      'task.init_checkpoint=out,task.init_checkpoint_modules=backbone,'
      'task.model.backbone.type=resnext101_64x4d')


def test_both_files_of_keras_hold_the_same(network, tensors, tmp_path):
  network.save(str(tmp_path / 'model.keras'))
  network.save(str(tmp_path / 'model.h5'))
  for name in ('model.keras', 'model.h5'):
    found = keras_files.read(tmp_path / name)
    assert set(found) == set(tensors)
    for key, value in tensors.items():
      np.testing.assert_array_equal(found[key], value)


@pytest.mark.parametrize('change, message', [
    (lambda state: state.pop('block_3_expand/kernel'), '1 layers .block_3_expand. are missing'),
    (lambda state: state.update({'block_17_add/kernel': np.ones(1)}),
     'mobilenet_v2 is the nearest: none is missing, 1 layers .block_17_add. are left over'),
    (lambda state: state.pop('bn_Conv1/gamma'), 'no tensor bn_Conv1/gamma'),
    (lambda state: state.update({'Conv1/odd': np.ones(1)}), '1 tensors are left over.*Conv1/odd'),
    (lambda state: state.update({'Conv1/kernel': np.ones((3, 3, 3, 48))}), 'width 1'),
    (lambda state: state.update({'Conv1/kernel': np.full((3, 3, 3, 32), np.nan)}), 'nan'),
])
def test_what_does_not_fit_is_refused(tensors, backbone, change, message):
  state = dict(tensors)
  change(state)
  with pytest.raises(command_line.CommandError, match=message):
    conversion.put(state, conversion.recognize(state, 'keras', 'x.h5'), backbone, 'x.h5')


def test_classifiers_are_left_out(tensors, backbone):
  state = {**tensors, 'predictions/kernel': np.ones((2, 3))}
  origin = conversion.recognize(state, 'keras', 'x.h5')
  assert conversion.put(state, origin, backbone, 'x.h5') == ['predictions/kernel']


@pytest.mark.parametrize('name, content, message', [
    ('x.h5', b'text', 'no weights that this command can read'),
    ('x.pth', b'text', 'not a state_dict'), ('y.h5', None, 'no such file')])
def test_other_files_are_refused(tmp_path, name, content, message):
  if content is not None:
    (tmp_path / name).write_bytes(content)
  output = tmp_path / 'out'
  with pytest.raises(command_line.CommandError, match=message):
    convert_backbone.main([f'--weights={tmp_path / name}', f'--output_dir={output}'])
  assert not output.exists()


@pytest.mark.slow
@pytest.mark.parametrize('name, size', [
    ('resnet50', (64, 45)), ('mobilenet_v1', (45, 64)), ('efficientnet_b0', (45, 64))])
def test_other_networks_of_keras(name, size, tmp_path):
  network = source_networks.keras_network(name, size)
  output = convert(network, pathlib.Path(tmp_path / 'weights.h5'))
  backbone = imported.ImportedBackbone(name, 'keras')
  # The variables are those of Model Garden's own backbone.
  kind, model_id = imported.NETWORKS[name]
  options = {'se_ratio': 0.25} if kind == 'efficientnet' else {}
  stock = getattr(backbones, _STOCK[kind])(model_id=model_id, **options)
  for model in (backbone, stock):
    initialization.load({'backbone': model}, str(output), 'backbone')
  check_features(name, network, backbone, size)

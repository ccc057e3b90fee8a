"""Files of PyTorch give their tensors, and nothing that they hold is run."""
import pickle
import zipfile

import numpy as np
import pytest
import torch_writer

from official_ext.utils import command_line
from official_ext.utils.source_weights import torch_files

BLOCK = np.arange(24, dtype=np.float32)
STATE = {
    'conv.weight': BLOCK.reshape(2, 3, 4)[1:].T,  # another offset and other strides
    'conv.bias': np.array([0.5, -1.0], np.float16),
    'bn.num_batches_tracked': np.array(7),
    'empty': np.zeros((0, 2), np.float32),
}


@pytest.mark.parametrize('is_old', [False, True])
@pytest.mark.parametrize('wrap', [
    lambda state: state,
    lambda state: {'epoch': 90, 'state_dict': {f'module.{name}': state[name] for name in state}},
    lambda state: {'model': state, 'optimizer': {'lr': 0.1}}])
def test_tensors_are_read(tmp_path, is_old, wrap):
  torch_writer.save(tmp_path / 'weights.pth', STATE, is_old, wrap)
  found = torch_files.read(tmp_path / 'weights.pth')
  assert set(found) == set(STATE)
  for name, array in STATE.items():
    assert found[name].dtype == array.dtype
    np.testing.assert_array_equal(found[name], array)


class Malicious:

  def __init__(self, path):
    self._path = path

  def __reduce__(self):
    return open, (str(self._path), 'w')


@pytest.mark.parametrize('is_old', [False, True])
def test_no_function_is_called(tmp_path, is_old):
  torch_writer.save(tmp_path / 'weights.pth', STATE, is_old,
                    lambda state: {'state_dict': state, 'extra': Malicious(tmp_path / 'called')})
  with pytest.raises(command_line.CommandError, match=r'holds (_?io)\.open, not only tensors'):
    torch_files.read(tmp_path / 'weights.pth')
  assert not (tmp_path / 'called').exists()


def _pth(path, **blocks):
  """A file whose blocks are replaced."""
  torch_writer.save(path, {'a': np.arange(4, dtype=np.float32)})
  with zipfile.ZipFile(path) as archive:
    content = archive.read('weights/data.pkl')
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('weights/data.pkl', content)
    for key, block in blocks.items():
      archive.writestr(f'weights/data/{key[1:]}', block)


@pytest.mark.parametrize('write, message', [
    (lambda path: _pth(path, _0=b'1234'), 'beyond its block'),
    (lambda path: _pth(path, _0=b'123'), 'buffer size'),
    (_pth, "'0'"),
    (lambda path: path.write_bytes(b'no pickle'), 'not a state_dict'),
    (lambda path: path.write_bytes(b''), 'not a state_dict'),
    (lambda path: path.write_bytes(pickle.dumps({'a': 1})), 'does not begin'),
    (lambda path: torch_writer.save(path, {}, wrap=lambda state: [1]), 'no dictionary'),
])
def test_damaged_files_are_refused(tmp_path, write, message):
  write(tmp_path / 'weights.pth')
  with pytest.raises(command_line.CommandError, match=message):
    torch_files.read(tmp_path / 'weights.pth')

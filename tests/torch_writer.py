"""Writes files as `torch.save` does, without PyTorch."""
import collections
import io
import pickle
import struct
import sys
import types
from unittest import mock
import zipfile

import numpy as np

_STORAGES = {'float32': 'FloatStorage', 'float16': 'HalfStorage', 'int64': 'LongStorage'}


class _Storage:
  """What a pickle refers to by a number: the block of a tensor."""

  def __init__(self, kind, key, block):
    self.kind, self.key, self.block = kind, key, block


class _Tensor:
  """Pickled as a tensor of PyTorch is: a call with its block, offset, shape and strides."""

  def __init__(self, rebuild, storage, array):
    offset = (array.__array_interface__['data'][0]
              - storage.block.__array_interface__['data'][0]) // array.itemsize
    strides = tuple(stride // array.itemsize for stride in array.strides)
    self._call = rebuild, (storage, offset, array.shape, strides, False,
                           collections.OrderedDict())

  def __reduce__(self):
    return self._call


class _Pickler(pickle.Pickler):

  def persistent_id(self, obj):
    if isinstance(obj, _Storage):
      return 'storage', obj.kind, obj.key, 'cpu', obj.block.size
    return None


def _modules():
  """Modules with the names that pickles of PyTorch mention."""
  torch, utils = types.ModuleType('torch'), types.ModuleType('torch._utils')
  for name in _STORAGES.values():
    setattr(torch, name, type(name, (), {'__module__': 'torch'}))

  def rebuild():
    raise NotImplementedError

  rebuild.__module__, rebuild.__qualname__ = 'torch._utils', '_rebuild_tensor_v2'
  rebuild.__name__ = '_rebuild_tensor_v2'
  utils._rebuild_tensor_v2 = rebuild
  torch._utils = utils
  return {'torch': torch, 'torch._utils': utils}


def save(path, state, is_old=False, wrap=lambda content: content):
  """Writes a state_dict.

  Args:
    path: the file.
    state: name -> array; a view shares the block of its base.
    is_old: whether to write the form of PyTorch before 1.6.
    wrap: makes the content of the file of the state_dict.
  """
  modules = _modules()
  storages = {}

  def tensor(array):
    array = np.asarray(array)
    block = array if array.base is None else array.base
    storage = storages.setdefault(id(block), _Storage(
        getattr(modules['torch'], _STORAGES[array.dtype.name]), str(len(storages)), block))
    return _Tensor(modules['torch._utils']._rebuild_tensor_v2, storage, array)

  with mock.patch.dict(sys.modules, modules):
    buffer = io.BytesIO()
    content = wrap(collections.OrderedDict((name, tensor(value)) for name, value in state.items()))
    _Pickler(buffer, 2).dump(content)
  blocks = {storage.key: storage.block for storage in storages.values()}
  if is_old:
    header = (0x1950a86a20f9469cfc6c, 1001, {'protocol_version': 1001, 'little_endian': True})
    path.write_bytes(b''.join(
        [*(pickle.dumps(part, 2) for part in header), buffer.getvalue(),
         pickle.dumps(sorted(blocks), 2),
         *(struct.pack('<q', blocks[key].size) + blocks[key].tobytes()
           for key in sorted(blocks))]))
    return
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('weights/data.pkl', buffer.getvalue())
    archive.writestr('weights/byteorder', 'little')
    for key, block in blocks.items():
      archive.writestr(f'weights/data/{key}', block.tobytes())

"""Reads the tensors of PyTorch's files without PyTorch, and without running code that they hold.

A file of PyTorch is a pickle whose tensors refer to blocks of numbers.  A pickle may name any
function of Python to be called when it is read.  This reader knows only what makes up a
`state_dict`: dictionaries, tensors and blocks of numbers; any other name is an error.
"""
import collections
from collections.abc import Mapping
import io
import math
import pathlib
import pickle
import struct
from typing import Any, NamedTuple
import zipfile

import numpy as np

from official_ext.utils import command_line

_DTYPES = {'FloatStorage': '<f4', 'DoubleStorage': '<f8', 'HalfStorage': '<f2',
           'LongStorage': '<i8', 'IntStorage': '<i4', 'ShortStorage': '<i2',
           'CharStorage': '<i1', 'ByteStorage': '<u1', 'BoolStorage': '?'}
# The first number of files that PyTorch wrote before 1.6, and of torchvision's older weights.
_OLD_MAGIC = 0x1950a86a20f9469cfc6c
# Entries of training checkpoints under which the weights are.
_NESTED = ('state_dict', 'model')
_PREFIX = 'module.'  # of networks that were trained on several devices


class _Block(NamedTuple):
  """A block of numbers that tensors refer to: its key, its type, and how many numbers it has."""
  key: str
  dtype: np.dtype
  size: int


class _Tensor(NamedTuple):
  """A tensor before its block is read."""
  block: _Block
  offset: int
  shape: tuple[int, ...]
  strides: tuple[int, ...]


def _tensor(block: _Block, offset: int, shape: tuple[int, ...], strides: tuple[int, ...],
            *_: Any) -> _Tensor:
  return _Tensor(block, offset, tuple(shape), tuple(strides))


def _parameter(data: _Tensor, *_: Any) -> _Tensor:
  return data


class _Unpickler(pickle.Unpickler):
  """Reads dictionaries and tensors, and refuses every other object."""

  def find_class(self, module: str, name: str) -> Any:
    if (module, name) == ('collections', 'OrderedDict'):
      return collections.OrderedDict
    if (module, name) == ('torch._utils', '_rebuild_tensor_v2'):
      return _tensor
    if (module, name) == ('torch._utils', '_rebuild_parameter'):
      return _parameter
    if module == 'torch' and name in _DTYPES:
      return np.dtype(_DTYPES[name])
    raise pickle.UnpicklingError(f'it holds {module}.{name}, not only tensors')

  def persistent_load(self, pid: Any) -> _Block:
    kind, dtype, key, _, size, *_ = pid
    if kind != 'storage' or not isinstance(dtype, np.dtype):
      raise pickle.UnpicklingError('it holds a block of another kind')
    return _Block(str(key), dtype, int(size))


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Returns the tensors of a `state_dict`.

  Args:
    path: file that `torch.save` wrote: a `state_dict`, or a training checkpoint that has one under
      `state_dict` or `model`.

  Returns:
    Name -> array, without the prefix `module.`.

  Raises:
    CommandError: not such a file, damaged, or with other objects than tensors.
  """
  try:
    content, blocks = _read_zip(path) if zipfile.is_zipfile(path) else _read_old(path)
    for name in _NESTED:
      if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
        content = content[name]
    if not isinstance(content, Mapping):
      raise pickle.UnpicklingError('it holds no dictionary of tensors')
    return {str(name).removeprefix(_PREFIX): _array(tensor, blocks)
            for name, tensor in content.items() if isinstance(tensor, _Tensor)}
  # A damaged pickle may raise anything that a call with wrong arguments raises.
  except (pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, ValueError, TypeError,
          IndexError, AttributeError, struct.error) as error:
    raise command_line.CommandError(
        f'--weights={path} is not a state_dict of PyTorch, or a damaged one ({error}): save '
        '`model.state_dict()` alone.') from error


def _read_zip(path: pathlib.Path) -> tuple[Any, dict[str, bytes]]:
  """Reads the pickle and the blocks of a file of PyTorch 1.6 or later."""
  with zipfile.ZipFile(path) as archive:
    names = archive.namelist()
    pickles = [name for name in names if name.endswith('/data.pkl')]
    if len(pickles) != 1:
      raise pickle.UnpicklingError('it has no data.pkl')
    folder = pickles[0].removesuffix('data.pkl')
    if f'{folder}byteorder' in names and archive.read(f'{folder}byteorder') != b'little':
      raise pickle.UnpicklingError('its numbers are big-endian')
    content = _Unpickler(io.BytesIO(archive.read(pickles[0]))).load()
    start = f'{folder}data/'
    return content, {name.removeprefix(start): archive.read(name)
                     for name in names if name.startswith(start)}


def _read_old(path: pathlib.Path) -> tuple[Any, dict[str, bytes]]:
  """Reads the pickles and the blocks of a file in the form that PyTorch wrote before 1.6."""
  with open(path, 'rb') as file:
    if _Unpickler(file).load() != _OLD_MAGIC:
      raise pickle.UnpicklingError('it does not begin as a file of PyTorch')
    _Unpickler(file).load()  # the version of the form
    if not _Unpickler(file).load().get('little_endian', True):
      raise pickle.UnpicklingError('its numbers are big-endian')
    unpickler = _Blocks(file)
    content = unpickler.load()
    blocks = {}
    for key in _Unpickler(file).load():
      size, = struct.unpack('<q', file.read(8))
      blocks[key] = file.read(size * unpickler.dtypes[key].itemsize)
  return content, blocks


class _Blocks(_Unpickler):
  """An unpickler that remembers the types of the blocks, which follow in the file."""

  def __init__(self, file: Any):
    super().__init__(file)
    self.dtypes: dict[str, np.dtype] = {}

  def persistent_load(self, pid: Any) -> _Block:
    block = super().persistent_load(pid)
    self.dtypes[block.key] = block.dtype
    return block


def _array(tensor: _Tensor, blocks: Mapping[str, bytes]) -> np.ndarray:
  """Returns the numbers of a tensor; raises ValueError if it reaches beyond its block."""
  numbers = np.frombuffer(blocks[tensor.block.key], tensor.block.dtype)
  if len(tensor.shape) != len(tensor.strides) or min(
      [tensor.offset, *tensor.shape, *tensor.strides]) < 0:
    raise ValueError('a tensor has an impossible shape')
  last = tensor.offset + sum(
      (size - 1) * stride for size, stride in zip(tensor.shape, tensor.strides))
  if math.prod(tensor.shape) and last >= len(numbers):
    raise ValueError('a tensor reaches beyond its block')
  return np.lib.stride_tricks.as_strided(
      numbers[tensor.offset:], tensor.shape,
      [stride * numbers.itemsize for stride in tensor.strides]).copy()

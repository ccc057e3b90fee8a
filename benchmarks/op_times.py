"""Where the time of a TensorFlow function goes, by layer and by kind of operation."""
import collections
from collections.abc import Callable
import pathlib
import re
import tempfile
from typing import Any, NamedTuple

import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2


class OpTime(NamedTuple):
  """One run of one operation.

  Attributes:
    name: of the operation, with the scopes that it is in.
    kind: type of the operation.
    milliseconds: how long it ran, on one thread or more.
  """
  name: str
  kind: str
  milliseconds: float


# The scope of the operations of a gradient.
_GRADIENT = re.compile(r'gradient(s|_tape)(_\d+)?/')


def record(call: Callable[[], Any]) -> list[OpTime]:
  """Runs a function once under TensorFlow's profiler.

  Args:
    call: runs a traced function that ran before, and waits for its result.

  Returns:
    The operations that ran.  Those that run other operations, such as conditionals that were not
    lowered, are there beside these.
  """
  options = tf.profiler.experimental.ProfilerOptions(host_tracer_level=2)
  with tempfile.TemporaryDirectory() as folder:
    with tf.profiler.experimental.Profile(folder, options):
      call()
    file, = pathlib.Path(folder).rglob('*.xplane.pb')
    space = xplane_pb2.XSpace.FromString(file.read_bytes())
  found = []
  for plane in space.planes:
    for line in plane.lines:
      for event in line.events:
        metadata = plane.event_metadata[event.metadata_id]
        if metadata.display_name:  # The operation's type; other events have none.
          name = metadata.name.rsplit(':', 1)[0]
          found.append(OpTime(name, metadata.display_name, event.duration_ps / 1e9))
  return found


def scope(name: str, depth: int) -> str:
  """Returns the first scopes of an operation's name, of a gradient after `gradient of`."""
  forward = _GRADIENT.sub('', name)
  parts = forward.split('/')[:-1][:depth]
  return ('gradient of ' if forward != name else '') + ('/'.join(parts) or 'no scope')


def table(runs: list[list[OpTime]], depth: int, rows: int) -> list[str]:
  """Returns the lines of two tables: the dearest scopes, and the dearest kinds of operations.

  Args:
    runs: what `record` returned, once or more often.
    depth: number of scopes by which operations are summed.
    rows: number of lines of each table.
  """
  lines = []
  total = sum(op.milliseconds for run in runs for op in run) / len(runs)
  keys: dict[str, Callable[[OpTime], str]] = {
      'scope': lambda op: scope(op.name, depth), 'operation': lambda op: op.kind}
  for title, key in keys.items():
    sums: collections.Counter[str] = collections.Counter()
    for run in runs:
      for op in run:
        sums[key(op)] += op.milliseconds / len(runs)
    lines.append(f'{title:64}{"ms":>10}{"share":>8}')
    lines += [f'{name[-64:]:64}{milliseconds:10.1f}{milliseconds / total:8.1%}'
              for name, milliseconds in sums.most_common(rows)]
  return lines

"""Times exported supernets whose images take random paths against one that always runs whole.

    .venv/bin/python benchmarks/caddet.py [--cases full] [--repeats 9] [--threads 1]

Routers run as always, but their logits are replaced by random ones that open each gate of each
image with a given probability.  Time is printed as a share of the time of the same network with
every path open, to be compared with its share of the multiply-adds; of the time of a supernet
without routers; and, for single images, of the time of their paths alone, without routers and
conditionals, because the parts of a network do not all have the same speed.
Machines are noisy: compare only ratios within one run.
"""
import argparse
from collections.abc import Callable
import pathlib
import tempfile
from typing import Any, NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
import tensorflow as tf

from official_ext.modeling.backbones import caddet
from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.modeling.backbones.caddet import modes
from official_ext.ops import routing
from official_ext.utils import command_line
from official_ext.utils import timing

PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)

_OPEN = 10.0  # The logit of a gate that is 1.


class Case(NamedTuple):
  """A supernet and what it is run on."""
  options: dict[str, Any]
  size: tuple[int, int]
  batch: int


CASES = {
    'full': Case({}, (640, 800), 1),
    'small': Case({'num_layers': 6, 'channels': [24, 32, 48, 64]}, (256, 256), 8),
}


class _GivenLogits(modes.Skip):
  """Inference that skips, with logits that are added to those of the routers."""

  def __init__(self, exported: 'Exported'):
    super().__init__()
    self._exported = exported

  def route(self, node, features, present):
    """See `Skip`."""
    number = self._exported.network._nodes.index(node)
    if self._exported.constants:
      # TensorFlow folds the conditionals of constant decisions.
      return tf.constant(self._exported.constants[number])
    return self._exported.logits[number] + super().route(node, features, present)


class Exported(tf.Module):
  """A supernet, and with routers the logits that it is given, `[batch, paths]` per node."""

  def __init__(self, case: Case, routers: bool):
    super().__init__()
    self.network = caddet.CADDet(routers=routers, **case.options)
    self.network.build([None, None, None, 3])
    self.logits: list[tf.Variable] = []
    self.constants: list[np.ndarray] | None = None
    if not routers:
      return
    for node in self.network._nodes:
      self.logits.append(tf.Variable(_OPEN * tf.ones([case.batch, len(node.paths)])))
      # The routers still run; their own logits are 0.
      for variable in node.get_router()._output.variables:
        variable.assign(tf.zeros_like(variable))
    self.network._mode = lambda training: _GivenLogits(self)

  def paths_alone(self, images: tf.Tensor) -> Callable[[], Any]:
    """Returns a function that runs the paths that are open now, without routers."""
    self.constants = [logits.numpy() for logits in self.logits]
    function = tf.function(lambda x: self.network(x, training=False), autograph=False)
    concrete = function.get_concrete_function(tf.TensorSpec(images.shape))
    self.constants = None
    return lambda: concrete(images)['3'].numpy()

  @tf.function(autograph=False)
  def run(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the features, and in `executed` the multiply-adds of every image."""
    with routing.RoutingTape() as tape:
      outputs = dict(self.network(images, training=False))
    record = tape.routing()
    if record:
      outputs['executed'] = record.executed
    return outputs


def _export(case: Case, routers: bool, folder: pathlib.Path) -> Exported:
  """Writes a supernet as a SavedModel, and returns it."""
  module = Exported(case, routers)
  conv_norm.fold_norms(module)  # As every export does.
  module.run.get_concrete_function(tf.TensorSpec([None, *case.size, 3]))
  tf.saved_model.save(module, str(folder))
  return module


def benchmark(name: str, case: Case, repeats: int, folder: pathlib.Path) -> None:
  """Prints shares of multiply-adds and time, one line per probability."""
  total = caddet.CADDet(**case.options).costs(*case.size)
  module = _export(case, True, folder / name)
  _export(case, False, folder / f'{name}_plain')
  # The gates of `whole` stay open.
  routed, whole, plain = (tf.saved_model.load(str(folder / path))
                          for path in (name, name, f'{name}_plain'))
  images = tf.random.stateless_normal([case.batch, *case.size, 3], [0, 1])
  command_line.say(f'\n{name} supernet, {case.size[0]}x{case.size[1]} pixels, batch {case.batch}, '
                   f'{total.total / 1e6:.0f} M multiply-adds with every path open:')
  command_line.say(f'  {"gates open":>10}  {"multiply-adds":>13}  {"time":>5}  {"ratio":>5}  '
                   f'{"of no routers":>13}  {"of its paths alone":>18}')
  rng = np.random.default_rng(0)
  for probability in PROBABILITIES:
    for loaded, own in zip(routed.logits, module.logits):
      own.assign(np.where(rng.uniform(size=own.shape) < probability, _OPEN, -_OPEN))
      loaded.assign(own)
    executed = float(tf.reduce_mean(routed.run(images)['executed'])) + total.stem
    functions = {'routed': lambda: routed.run(images)['3'].numpy(),
                 'whole': lambda: whole.run(images)['3'].numpy(),
                 'plain': lambda: plain.run(images)['3'].numpy()}
    if case.batch == 1:
      functions['alone'] = module.paths_alone(images)
    seconds = timing.interleaved(functions, repeats)
    share = executed / total.total
    time, no_routers, *alone = (timing.median_ratio(seconds, 'routed', other)
                                for other in functions if other != 'routed')
    command_line.say(f'  {probability:10.0%}  {share:13.3f}  {time:5.3f}  {time / share:5.3f}  '
                     f'{no_routers:13.3f}  {f"{alone[0]:.3f}" if alone else "-":>18}')


def main() -> None:
  """Runs all benchmarks."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--cases', nargs='+', choices=list(CASES), default=list(CASES),
                      help='(all)')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  parser.add_argument('--threads', type=int, help='of TensorFlow (as many as the machine has)')
  args = parser.parse_args()
  if args.threads:
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  with tempfile.TemporaryDirectory() as folder:
    for name in args.cases:
      benchmark(name, CASES[name], args.repeats, pathlib.Path(folder))


if __name__ == '__main__':
  command_line.run(main)

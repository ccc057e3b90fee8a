"""Times exported supernets whose images take random paths against one that always runs whole.

    .venv/bin/python benchmarks/caddet.py [--cases full] [--gates 0.5 1] [--repeats 9] [--threads 1]

Exports have constant weights, folded norms and batches of any size.  Routers run as always; to
their logits, nearly 0, random ones are added that open each gate of each image with a given
probability.  Time is printed as a share of the time of the same network with every path open, to
be compared with its share of the multiply-adds; of the time of a supernet without routers; and,
for single images, of the time of their paths alone, without routers and conditionals, because
the parts of a network do not all have the same speed.
Machines are noisy: compare only ratios within one run.
"""
import argparse
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
import tensorflow as tf

from official_ext.modeling.backbones import caddet
from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.modeling.backbones.caddet import modes
from official_ext.modeling.backbones.caddet import wiring
from official_ext.ops import routing
from official_ext.serving.compiling import frozen
from official_ext.utils import command_line
from official_ext.utils import timing

PROBABILITIES = (0.1, 0.2, 0.3, 0.4, 0.5, 1.0)

_OPEN = 10.0  # the logit of a gate that is 1


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
  """Inference that skips, with logits that are added to those of the routers.

  Attributes:
    given: `[batch, nodes of all layers, paths]`; constants take the place of the routers, whose
      conditionals TensorFlow then folds.
  """

  def __init__(self, given: tf.Tensor | np.ndarray, nodes: Sequence[Any]):
    super().__init__()
    self.given, self._nodes = given, list(nodes)

  def route(self, node, features, present):
    """See `Skip`."""
    places = [wiring.PATHS.index(path) for path in node.paths]
    own = self.given[:, self._nodes.index(node)]
    if isinstance(own, np.ndarray):
      return tf.constant(own[:, places])
    return tf.gather(own, places, axis=1) + super().route(node, features, present)


class Exported:
  """A supernet whose exports have constant weights and folded norms, as those of the package."""

  def __init__(self, case: Case, routers: bool):
    self._case, self._network = case, caddet.CADDet(routers=routers, **case.options)
    self._network.build([None, None, None, 3])
    self._specs = wiring.wire(self._network.get_config()['num_layers'], len(
        self._network.get_config()['channels']))
    for variable in self._network.variables:
      if variable.name.endswith('beta:0'):  # TensorFlow would remove shifts of 0.
        variable.assign(tf.random.stateless_normal(variable.shape, [0, 1], stddev=0.1))
    conv_norm.fold_norms(self._network)
    for node in self._network._nodes if routers else []:
      for variable in node.get_router()._output.variables:
        # Not 0, which TensorFlow would fold, and with it the routers.
        variable.assign(1e-9 * tf.ones_like(variable))

  def draw(self, probability: float, random: np.random.Generator) -> np.ndarray:
    """Returns logits that open each gate of each image with a probability."""
    exists = np.array([[path in spec.paths for path in wiring.PATHS] for spec in self._specs])
    is_open = random.uniform(size=[self._case.batch, *exists.shape]) < probability
    return np.where(is_open, _OPEN, -_OPEN).astype(np.float32) * exists

  def freeze(self, constants: np.ndarray | None = None) -> Callable[..., dict[str, tf.Tensor]]:
    """Returns a function of images, and with routers of logits, that returns the features.

    Args:
      constants: logits that are known when the function is traced; then it has routers no more.
    """
    images = tf.TensorSpec([None, *self._case.size, 3], name='images')
    if not self._network.is_routed:
      return self._traced(lambda images: self._network(images, training=False), images)
    if constants is not None:
      self._network._mode = lambda training: _GivenLogits(constants, self._network._nodes)
      one = tf.TensorSpec([1, *self._case.size, 3], name='images')
      return self._traced(lambda images: self._network(images, training=False), one)
    given = tf.TensorSpec([None, len(self._specs), len(wiring.PATHS)], name='logits')
    return self._traced(self._routed, images, given)

  def _routed(self, images: tf.Tensor, logits: tf.Tensor) -> dict[str, tf.Tensor]:
    """Returns the features, and in `executed` the multiply-adds of every image."""
    self._network._mode = lambda training: _GivenLogits(logits, self._network._nodes)
    with routing.RoutingTape() as tape:
      outputs = dict(self._network(images, training=False))
    return {**outputs, 'executed': tape.routing().executed}

  def _traced(self, function: Callable[..., Any], *specs: tf.TensorSpec) -> Callable[..., Any]:
    traced = tf.function(function, autograph=False).get_concrete_function(*specs)
    return frozen.freeze(traced)[0]


def benchmark(name: str, case: Case, probabilities: Sequence[float], repeats: int) -> None:
  """Prints shares of multiply-adds and time, one line per probability."""
  total = caddet.CADDet(**case.options).costs(*case.size)
  exported = Exported(case, True)
  routed, plain = exported.freeze(), Exported(case, False).freeze()
  images = tf.random.stateless_normal([case.batch, *case.size, 3], [0, 1])
  command_line.say(f'\n{name} supernet, {case.size[0]}x{case.size[1]} pixels, batch {case.batch}, '
                   f'{total.total / 1e6:.0f} M multiply-adds with every path open:')
  command_line.say(f'  {"gates open":>10}  {"multiply-adds":>13}  {"time":>5}  {"ratio":>5}  '
                   f'{"of no routers":>13}  {"of its paths alone":>18}')
  rng = np.random.default_rng(0)
  every = tf.constant(exported.draw(1, rng))
  for probability in probabilities:
    drawn = exported.draw(probability, rng)
    logits = tf.constant(drawn)
    executed = float(tf.reduce_mean(routed(images, logits)['executed'])) + total.stem
    functions = {'routed': lambda logits=logits: routed(images, logits)['3'].numpy(),
                 'whole': lambda: routed(images, every)['3'].numpy(),
                 'plain': lambda: plain(images)['3'].numpy()}
    if case.batch == 1:
      paths = exported.freeze(drawn)
      functions['alone'] = lambda paths=paths: paths(images)['3'].numpy()
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
  parser.add_argument('--gates', nargs='+', type=float, default=list(PROBABILITIES),
                      help=f'probabilities of an open gate ({" ".join(map(str, PROBABILITIES))})')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  parser.add_argument('--threads', type=int, help='of TensorFlow (as many as the machine has)')
  args = parser.parse_args()
  if args.threads:
    tf.config.threading.set_inter_op_parallelism_threads(args.threads)
    tf.config.threading.set_intra_op_parallelism_threads(args.threads)
  for name in args.cases:
    benchmark(name, CASES[name], args.gates, args.repeats)


if __name__ == '__main__':
  command_line.run(main)

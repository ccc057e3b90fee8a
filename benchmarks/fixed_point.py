"""Times i-FPN's solvers against two unrolled evaluations of the same map G.

    .venv/bin/python benchmarks/fixed_point.py [--image_size 320] [--repeats 15]

Training steps and inference are ratios of medians, interleaved in one run; machines are
noisy, and only ratios within one run mean something.  Memory is the peak of
a process of its own above what it held before its first step.
"""
import argparse

import official_ext  # noqa: F401 (chooses Keras 2)
import memory
import tensorflow as tf, tf_keras

from official_ext.modeling.decoders import ifpn
from official_ext.utils import command_line
from official_ext.utils import timing

LEVELS = (3, 4, 5)


def _unroll(count):
  return {'solver': 'unroll', 'gradient': 'unroll', 'training_evaluations': count,
          'inference_evaluations': count}


def _implicit(forward, backward, solver='anderson', **options):
  return {'solver': solver, 'training_evaluations': forward, 'inference_evaluations': forward,
          'backward_evaluations': backward, 'memory': 16 if solver == 'broyden' else 5, **options}


TRAINING = {
    'unroll 2': _unroll(2),
    'unroll 4': _unroll(4),
    'Anderson 4, Jacobian-free': _implicit(4, 0, gradient='jacobian_free'),
    'Anderson 4/2': _implicit(4, 2),
    'Anderson 5/3': _implicit(5, 3),
    'Anderson 15/15': _implicit(15, 15),
    # 15 steps: the first evaluation of the forward solve is at the start.
    'Broyden 15/15': _implicit(16, 15, solver='broyden'),
}
INFERENCE = {
    'unroll 2': _unroll(2),
    'unroll 4': _unroll(4),
    'Anderson 4': _implicit(4, 0),
    'Anderson 5': _implicit(5, 0),
    'Broyden, 7 steps': _implicit(8, 0, solver='broyden'),
    'Anderson 5, as a loop': _implicit(5, 0, tolerance=1e-6),
}


def random_inputs(num_filters: int, image_size: int, batch: int):
  """Returns the levels of a backbone as narrow as the pyramid."""
  return {
      str(level): tf.random.stateless_normal(
          [batch, image_size >> level, image_size >> level, num_filters], [0, level])
      for level in LEVELS}


def make(num_filters: int, solver) -> ifpn.ImplicitFPN:
  """Returns an i-FPN whose basis is normalized, so that G contracts."""
  specs = {str(level): [None, None, None, num_filters] for level in LEVELS}
  tf_keras.utils.set_random_seed(0)
  network = ifpn.ImplicitFPN(
      specs, min_level=3, max_level=7, num_filters=num_filters, normalize_basis=True,
      solver=solver, dropout=0.0)
  network(random_inputs(num_filters, 64, 1))
  return network


def training_step(network, inputs, jit: bool = False):
  """Returns a compiled function that makes all gradients of one step."""

  def step():
    with tf.GradientTape() as tape:
      outputs = network(inputs, training=True)
      loss = tf.add_n([tf.reduce_mean(tf.square(x)) for x in outputs.values()])
    gradients = tape.gradient(loss, network.trainable_variables)
    return tf.add_n([tf.reduce_sum(g) for g in gradients])

  return tf.function(step, autograph=False, jit_compile=jit)


def inference(network, inputs, jit: bool = False):
  """Returns a compiled function that runs the network."""
  return tf.function(lambda: list(network(inputs, training=False).values()), autograph=False,
                     jit_compile=jit)


def _finished(function):
  """Returns a function that runs `function` and waits for its tensors."""
  return lambda: tf.nest.map_structure(lambda x: x.numpy(), function())


def benchmark(title: str, build, cases, args, num_filters: int) -> None:
  """Prints the time of every case as a multiple of that of two unrolled evaluations."""
  inputs = random_inputs(num_filters, args.image_size, args.batch)
  functions = {name: _finished(build(make(num_filters, solver), inputs, jit=args.jit))
               for name, solver in cases.items()}
  command_line.say(f'\n{title}, {num_filters} filters, {args.image_size} pixels, batch '
                   f'{args.batch}{", XLA" if args.jit else ""}, multiples of unroll 2:')
  seconds = timing.interleaved(functions, args.repeats)
  for name in cases:
    command_line.say(f'  {name:26}{timing.median_ratio(seconds, name, "unroll 2"):6.2f}')


def peak_memory(name: str, num_filters: int) -> float:
  """Returns the MB that the training step `name` adds to this process at its peak."""
  step = training_step(make(num_filters, TRAINING[name]), random_inputs(num_filters, 1024, 2))
  step.get_concrete_function()
  return memory.added_by(step)


def benchmark_memory(cases, num_filters: int) -> None:
  """Prints the peak memory of every training step, each in a process of its own."""
  command_line.say(f'\nmemory of a training step, {num_filters} filters, 1024 pixels, batch 2:')
  base = None
  for name in cases:
    megabytes = memory.of_process(
        __file__, ['--memory_of', name, '--filters', str(num_filters)])
    base = base or megabytes
    command_line.say(f'  {name:26}{megabytes:6.0f} MB  {megabytes / base:5.2f}')


def main() -> None:
  """Runs all benchmarks."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--image_size', type=int, default=320, help='side in pixels (320)')
  parser.add_argument('--batch', type=int, default=1, help='images (1)')
  parser.add_argument('--filters', type=int, nargs='+', default=[64, 256], help='(64 256)')
  parser.add_argument('--repeats', type=int, default=15, help='interleaved repeats (15)')
  parser.add_argument('--jit', action='store_true', help='compile with XLA')
  parser.add_argument('--cases', nargs='+', help='some of the cases; unroll 2 is always one')
  parser.add_argument('--memory_of', choices=TRAINING, help='print the MB of this step alone')
  args = parser.parse_args()
  if args.memory_of:
    command_line.say(f'{peak_memory(args.memory_of, args.filters[0]):.1f}')
    return
  training, at_inference = (
      {name: solver for name, solver in cases.items()
       if name == 'unroll 2' or not args.cases or name in args.cases}
      for cases in (TRAINING, INFERENCE))
  for num_filters in args.filters:
    benchmark('training step', training_step, training, args, num_filters)
    benchmark('inference', inference, at_inference, args, num_filters)
  benchmark_memory(training, args.filters[0])


if __name__ == '__main__':
  command_line.run(main)

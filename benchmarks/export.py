"""Times exports: with variables, with constants, with norms folded; with and without the remapper.

    .venv/bin/python benchmarks/export.py [--sizes 256,512] [--batches 1,8] [--threads 1,2]

Networks have random weights and norms, and leave suppression out.  Every number of threads is a
process of its own.  Times are medians of ratios to the export with variables, interleaved; `off`
is TensorFlow's graph optimizer `remapping` switched off.
"""
import argparse
from collections.abc import Callable
import subprocess
import sys
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import wrap_function
from tensorflow.python.framework import convert_to_constants

from official_ext import registry_imports
from official_ext.modeling.backbones.caddet import conv_norm
from official_ext.serving import detection
from official_ext.serving import export_modules
from official_ext.serving.compiling import frozen
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import timing

EXPERIMENTS = ('retinanet_fpn_efficientnetlite0_sample', 'retinanet_dyfpn_efficientnetlite0_sample',
               'fcos_dynamichead_efficientnetlite0_sample', 'fcos_caddet_sample')


def make_module(name: str, size: int, params_override: str = ''
                ) -> export_modules.DetectionModule:
  """Returns what an experiment exports, for images of one side, with random weights."""
  params = experiment.resolve(name, params_override=params_override, lock=False)
  params.override({'task': {'model': {
      'input_size': [size, size, 3], 'detection_generator': {'apply_nms': False}}}})
  model = detection.build_model(params)
  random = np.random.default_rng(0)
  for variable in model.variables:
    if 'moving_' in variable.name:  # A norm that changes nothing would be removed.
      variable.assign(variable + 0.3 * random.uniform(0, 1, variable.shape))
  conv_norm.fold_norms(model)  # as every export does
  return export_modules.make_module(params, model)


def _with_constants(function: Any) -> Any:
  """Returns a function with constants for variables, its norms as they are."""
  constant = convert_to_constants.convert_variables_to_constants_v2(
      function, lower_control_flow=False)
  return wrap_function.function_from_graph_def(
      constant.graph.as_graph_def(), [constant.inputs[0].name],
      [output.name for output in constant.outputs])


def _calls(function: Any, images: tf.Tensor, remapping: bool) -> Callable[[], None]:
  """Returns a function that runs another one with or without the remapper."""

  def call():
    tf.config.optimizer.set_experimental_options({'remapping': remapping})
    tf.nest.map_structure(lambda output: output.numpy(), function(images))

  return call


def measure(arguments: argparse.Namespace) -> None:
  """Measures in this process, with its number of threads."""
  threads = int(arguments.threads)
  tf.config.threading.set_intra_op_parallelism_threads(threads)
  tf.config.threading.set_inter_op_parallelism_threads(threads)
  random = np.random.default_rng(0)
  for name in arguments.experiments.split(','):
    for size in map(int, arguments.sizes.split(',')):
      module = make_module(name, size)
      plain = module.get_inference_signatures({'image_tensor': 'it'})['it']
      folded, folding = frozen.freeze(plain, winograd=arguments.winograd)
      functions = {'variables': plain, 'constants': _with_constants(plain), 'folded': folded}
      command_line.say(f'{name}, {size} pixels: {folding.folded} norms are folded, {folding.kept} '
                       f'stay; {folding.winograd} convolutions have fewer multiplications')
      for batch in map(int, arguments.batches.split(',')):
        images = tf.constant(random.integers(0, 256, [batch, size, size, 3], np.uint8))
        cases = {f'{key}{"" if remapping else " off"}': _calls(function, images, remapping)
                 for key, function in functions.items() for remapping in (True, False)}
        seconds = timing.interleaved(cases, arguments.repeats)
        ratios = ''.join(f'{timing.median_ratio(seconds, key, "variables"):15.2f}'
                         for key in cases if key != 'variables')
        command_line.say(
            f'{name[:27]:28}{size:5}{batch:6}{threads:8}'
            f'{1e3 * np.median(seconds["variables"]):10.1f} ms{ratios}')


def main() -> None:
  """Starts a process for each number of threads."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--experiments', default=','.join(EXPERIMENTS))
  parser.add_argument('--sizes', default='256')
  parser.add_argument('--batches', default='1,8')
  parser.add_argument('--threads', default='1,2')
  parser.add_argument('--winograd', action=argparse.BooleanOptionalAction, default=True,
                      help='whether 3x3 convolutions of `folded` have fewer multiplications')
  parser.add_argument('--repeats', type=int, default=15)
  parser.add_argument('--in_process', action='store_true', help=argparse.SUPPRESS)
  arguments = parser.parse_args()
  if arguments.in_process:
    measure(arguments)
    return
  names = ('variables off', 'constants', 'constants off', 'folded', 'folded off')
  command_line.say(f'{"experiment":28}{"side":>5}{"batch":>6}{"threads":>8}{"variables":>13}'
                   + ''.join(f'{name:>15}' for name in names))
  for threads in arguments.threads.split(','):
    subprocess.run([sys.executable, __file__, *sys.argv[1:], f'--threads={threads}',
                    '--in_process'], check=True)


if __name__ == '__main__':
  main()

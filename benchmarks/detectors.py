"""Times training steps of whole detectors with each neck or head, and measures their memory.

    .venv/bin/python benchmarks/detectors.py [--detector retinanet] [--image_size 320] [--repeats 5]
    .venv/bin/python benchmarks/detectors.py --inference --cases DyFPN
    .venv/bin/python benchmarks/detectors.py --profile DyFPN
    .venv/bin/python benchmarks/detectors.py --detector fcos --cases "dynamic head with a budget"
    .venv/bin/python benchmarks/detectors.py --detector fcos --backbone sample --base CADDet \
      --cases "CADDet with a budget"

A step is Model Garden's: forward pass, losses, gradients and update, for random images with random
boxes.  Times are ratios of medians, interleaved in one run; machines are noisy, and only ratios
within one run mean something.  Memory is the peak of a process of its own, or of the GPU, above
what it held before its first step.  DRFPN's Table 7 ("Time") and i-FPN's section 5 compare the same
on eight GPUs.  With `--inference` it times frozen exports instead, from images to outputs of the
heads.  With `--profile` it prints where the time of a step with one neck goes: by layer, forward
and backward, and by kind of operation, as TensorFlow's profiler measures it.
"""
import argparse
from collections.abc import Callable
import pathlib
import tempfile
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import memory
import numpy as np
from official.core import task_factory
from official.vision.tasks import maskrcnn
from official.vision.tasks import retinanet
import op_times
import tensorflow as tf

from official_ext import registry_imports
from official_ext.serving.compiling import frozen
from official_ext.serving import signatures
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import timing

_SOLVER = 'task.model.decoder.ifpn.solver.'
_DRAWN = ('task.budget.kind=drawn,task.budget.weight=0.1,task.budget.reduction=mean_share,'
          'task.budget.distance=absolute')
_TOWER = 'task.model.head.tower.dynamic.'
_CADDET = 'task.model.backbone.caddet.'
# Name of the case -> decoder of the experiment, and overrides.
NECKS = {
    'FPN': ('fpn', ''),
    # The same model and data; the step is that of Model Garden's own task.
    "Model Garden's FPN": ('fpn', ''),
    'inception FPN': ('inception_fpn', ''),
    'DyFPN': ('dyfpn', ''),
    'DRFPN without context': ('drfpn', 'task.model.decoder.drfpn.context=none'),
    'DRFPN': ('drfpn', ''),
    'i-FPN, unroll 2': ('ifpn', ','.join(f'{_SOLVER}{field}' for field in (
        'solver=unroll', 'gradient=unroll', 'training_evaluations=2',
        'inference_evaluations=2'))),
    'i-FPN, Anderson 4/2': ('ifpn', ','.join(f'{_SOLVER}{field}' for field in (
        'training_evaluations=4', 'inference_evaluations=4', 'backward_evaluations=2'))),
    'i-FPN, Anderson 5/3': ('ifpn', ''),
    'i-FPN, Broyden 15/15': ('ifpn', ','.join(f'{_SOLVER}{field}' for field in (
        'solver=broyden', 'training_evaluations=16', 'backward_evaluations=15'))),
    'DyFPN with a budget': ('dyfpn', f'task.model.decoder.dyfpn.gate.budget_input=true,{_DRAWN}'),
    'i-FPN with a budget': (
        'ifpn', f'{_SOLVER}budget_input=true,task.budget.kind=drawn,'
        'task.budget.draw_range=[0.0,0.8]'),
}
# The same of FCOS with FPN and the dynamic head; a block has as many convolutions as plain towers.
HEADS = {
    'dynamic head': ('dynamichead', f'{_TOWER}num_blocks=1'),
    'dynamic head with a budget': (
        'dynamichead', f'{_TOWER}num_blocks=1,{_TOWER}budget_input=true,{_DRAWN}'),
    # They need --backbone=sample, because their experiment is fcos_caddet_sample.
    'CADDet': ('caddet', ''),
    'CADDet with a budget': (
        'caddet', f'{_CADDET}budget_input=true,{_CADDET}router_norm=group,{_DRAWN},'
        'task.budget.path_similarity.weight=0.0'),
}
CASES = {**NECKS, **HEADS}
_STOCK = "Model Garden's FPN"
_STOCK_TASKS = {'retinanet': retinanet.RetinaNetTask, 'fasterrcnn': maskrcnn.MaskRCNNTask}
_NUM_BOXES = 8
_ROWS = 20


def _write_record(path: pathlib.Path, image_size: int) -> None:
  """Writes one example with a random image and random boxes."""
  random = np.random.default_rng(0)
  pixels = random.integers(0, 256, [image_size, image_size, 3], np.uint8)
  low, sides = random.uniform(0, 0.5, [2, _NUM_BOXES]), random.uniform(0.1, 0.5, [2, _NUM_BOXES])
  values = {
      'image/encoded': [tf.io.encode_jpeg(pixels).numpy()], 'image/source_id': [b'1'],
      'image/height': [image_size], 'image/width': [image_size],
      'image/object/class/label': [1] * _NUM_BOXES,
      **{f'image/object/bbox/{axis}{end}': list(low[k] + (sides[k] if end == 'max' else 0))
         for k, axis in enumerate('yx') for end in ('min', 'max')}}
  kinds: dict[type, Callable[[list], tf.train.Feature]] = {
      bytes: lambda own: tf.train.Feature(bytes_list=tf.train.BytesList(value=own)),
      int: lambda own: tf.train.Feature(int64_list=tf.train.Int64List(value=own))}
  features = {name: kinds.get(type(own[0]), lambda own: tf.train.Feature(
      float_list=tf.train.FloatList(value=own)))(own) for name, own in values.items()}
  with tf.io.TFRecordWriter(str(path)) as writer:
    writer.write(tf.train.Example(
        features=tf.train.Features(feature=features)).SerializeToString())


def _task(name: str, args: argparse.Namespace) -> tuple[Any, Any]:
  """Returns the task of a detector, and the parameters of its experiment."""
  decoder, override = CASES[name]
  size = args.image_size
  params = experiment.resolve(
      f'{args.detector}_{decoder}_{args.backbone}', lock=False, params_override=','.join(filter(
          None, [f'task.model.input_size=[{size},{size},3]', 'task.init_checkpoint=null',
                 'task.train_data.dtype=float32', override, args.override])))
  make_task = _STOCK_TASKS[args.detector] if name == _STOCK else task_factory.get_task
  return make_task(params.task), params


def training_step(name: str, args: argparse.Namespace) -> Callable[[], Any]:
  """Returns a traced training step of a detector, which returns when it is done.

  Args:
    name: one of `CASES`.
    args: `detector`, `backbone`, `image_size`, `batch` and `override`.
  """
  task, params = _task(name, args)
  model = task.build_model()
  with tempfile.TemporaryDirectory() as folder:
    record = pathlib.Path(folder) / 'image.tfrecord'
    _write_record(record, args.image_size)
    data = params.task.train_data.replace(
        input_path=str(record), global_batch_size=args.batch, shuffle_buffer_size=1)
    inputs = next(iter(task.build_inputs(data)))
  optimizer = task.create_optimizer(params.trainer.optimizer_config, params.runtime)
  optimizer._create_all_weights(model.trainable_variables)
  step = tf.function(lambda: task.train_step(inputs, model, optimizer), autograph=False)
  step.get_concrete_function()
  return lambda: float(step()[task.loss])


def inference(name: str, args: argparse.Namespace) -> Callable[[], Any]:
  """Returns an export of a detector on random images, up to the outputs of its heads.

  Args:
    name: one of `CASES`.
    args: those of `training_step`.
  """
  model = _task(name, args)[0].build_model()
  size = [args.image_size, args.image_size, 3]

  def run(inputs):
    features = model.decoder(model.backbone(inputs, training=False), training=False)
    return {f'output_{number}': value for number, value in enumerate(
        tf.nest.flatten(model.head(features, training=False)))}

  function, _ = frozen.freeze(signatures.with_names(
      run, [tf.TensorSpec([None, *size], tf.float32, 'inputs')]))
  images = tf.random.stateless_uniform([args.batch, *size], [0, 0])
  return lambda: [value.numpy() for value in function(images).values()]


def benchmark(args: argparse.Namespace) -> None:
  """Prints the time of every case as a multiple of that of the base, and its memory."""
  cases = list(dict.fromkeys([args.base, *args.cases]))
  make = inference if args.inference else training_step
  seconds = timing.interleaved({name: make(name, args) for name in cases}, args.repeats)
  what = 'time of an export' if args.inference else 'time and memory of a training step'
  command_line.say(f'{args.detector}, {args.backbone}, {args.image_size} pixels, batch '
                   f'{args.batch}: {what}, as multiples of {args.base}')
  base = None
  for name in cases:
    line = f'  {name:28}{timing.median_ratio(seconds, name, args.base):6.2f}'
    if not args.inference:
      megabytes = memory.of_process(__file__, [
          '--memory_of', name, *(f'--{option}={getattr(args, option)}' for option in (
              'detector', 'backbone', 'image_size', 'batch', 'override'))])
      base = base or megabytes
      line += f'  {megabytes:7.0f} MB {megabytes / base:6.2f}'
    command_line.say(line)


def _parse_arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--detector', default='retinanet', help='(retinanet)',
                      choices=('retinanet', 'fasterrcnn', 'fcos'))
  parser.add_argument('--backbone', default='resnet50_coco', metavar='NAME',
                      help='end of the name of the experiments (resnet50_coco)')
  parser.add_argument('--image_size', type=int, default=512, help='side in pixels (512)')
  parser.add_argument('--batch', type=int, default=1, help='images (1)')
  parser.add_argument('--repeats', type=int, default=5, help='interleaved repeats (5)')
  parser.add_argument('--override', default='', help='overrides of every experiment')
  parser.add_argument('--cases', nargs='+', choices=CASES, metavar='CASE',
                      help=f'any of {", ".join(NECKS)} (all of these, but {_STOCK} not with '
                      f'--detector=fcos, which has {", ".join(HEADS)} too); the base is always one')
  parser.add_argument('--base', default='FPN', choices=CASES, metavar='CASE',
                      help='which is 1 (FPN)')
  parser.add_argument('--inference', action='store_true',
                      help='time exports, not training steps')
  parser.add_argument('--profile', choices=CASES, metavar='CASE',
                      help='print where the time of this step goes, and nothing else')
  parser.add_argument('--depth', type=int, default=2, metavar='N',
                      help='scopes by which --profile sums operations (2)')
  parser.add_argument('--memory_of', choices=CASES, help='print the MB of this step alone')
  args = parser.parse_args()
  if args.inference and args.detector == 'fasterrcnn':
    parser.error('--inference is for detectors of one stage.')
  unknown = {_STOCK} if args.detector == 'fcos' else set(HEADS)
  args.cases = args.cases or [name for name in NECKS if name not in unknown]
  if wrong := unknown.intersection([args.base, args.profile, args.memory_of, *args.cases]):
    parser.error(f'{", ".join(sorted(wrong))} is not for --detector={args.detector}.')
  return args


def main() -> None:
  """Runs the benchmark."""
  args = _parse_arguments()
  if args.memory_of:
    command_line.say(f'{memory.added_by(training_step(args.memory_of, args)):.1f}')
    return
  if args.profile:
    step = training_step(args.profile, args)
    step()
    runs = [op_times.record(step) for _ in range(args.repeats)]
    command_line.say('\n'.join(op_times.table(runs, args.depth, _ROWS)))
    return
  benchmark(args)


if __name__ == '__main__':
  command_line.run(main)

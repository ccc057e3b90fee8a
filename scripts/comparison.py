"""What the scripts that train several networks on one data set share."""
import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys
from typing import Any, Callable, Dict, List, Sequence

import official_ext  # noqa: F401 (chooses Keras 2)
from tensorboard.backend.event_processing import event_accumulator
import tensorflow as tf

from official_ext.utils import command_line
from official_ext.utils import files

Results = Dict[str, List[Dict[str, float]]]


def parser(description: str, output_dir: str) -> argparse.ArgumentParser:
  """Returns a parser of the arguments that all comparisons have."""
  arguments = argparse.ArgumentParser(
      description=description, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  arguments.add_argument('--data', type=pathlib.Path, required=True, metavar='FOLDER',
                         help='data set in COCO, Pascal VOC or CSV layout')
  arguments.add_argument('--train_steps', type=int, metavar='N',
                         help='default: what the experiments say')
  arguments.add_argument('--output_dir', type=pathlib.Path, default=pathlib.Path(output_dir),
                         metavar='DIR', help=f'default: {output_dir}')
  return arguments


def overrides(train_steps: int, *more: str) -> str:
  """Returns the `--params_override` of a run."""
  # Digits of the composed sample must not be mirrored; most other things may be.
  texts = ['task.train_data.parser.aug_rand_hflip=true']
  if train_steps:
    texts += [f'trainer.train_steps={train_steps}',
              f'trainer.validation_interval={train_steps}',
              f'trainer.optimizer_config.learning_rate.cosine.decay_steps={train_steps}']
  return ','.join(texts + [text for text in more if text])


def command(module: str, **options: Any) -> None:
  """Runs one of the package's commands and shows only its errors."""
  arguments = [f'--{key}={value}' for key, value in options.items()]
  result = subprocess.run(
      [sys.executable, '-m', f'official_ext.{module}', *arguments], check=False, text=True,
      stderr=subprocess.PIPE, env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'})
  if result.returncode:
    raise command_line.CommandError(
        f'official_ext.{module} {" ".join(arguments)} ended with status {result.returncode}: '
        f'{(result.stderr.strip() or "no message").splitlines()[-1]}')


def last_evaluation(model_dir: pathlib.Path) -> Dict[str, float]:
  """Reads what the trainer's last evaluation wrote for TensorBoard, by name."""
  events = event_accumulator.EventAccumulator(
      str(model_dir / 'validation'), size_guidance={event_accumulator.TENSORS: 0})
  events.Reload()
  return {name: float(tf.make_ndarray(events.Tensors(name)[-1].tensor_proto))
          for name in events.Tags()['tensors']}


def run_all(names: Sequence[str], args: argparse.Namespace,
            train: Callable[[str, pathlib.Path, pathlib.Path], Dict[str, float]],
            show: Callable[[Results], str]) -> Results:
  """Converts the data, and runs what has not been run yet.

  Args:
    names: of the runs; one that is named several times is run several times.
    args: of `parser`.
    train: from a name, the folder of the run and that of the records to the run's result.
    show: makes a table, which is printed after every run.

  Returns:
    The results by name.
  """
  records = args.output_dir / 'records'
  command('tools.convert_dataset', input=args.data, output_dir=records)
  counts, results = collections.Counter(), collections.defaultdict(list)
  for number, name in enumerate(names, 1):
    counts[name] += 1
    folder = args.output_dir / f'{name}-{counts[name]}'
    result = folder / 'result.json'
    if not result.is_file():
      command_line.say(f'\n[{number}/{len(names)}] training {name} in {folder}')
      values = train(name, folder, records)
      with files.atomic_file(result) as path:
        path.write_text(json.dumps(values, indent=2) + '\n', encoding='utf-8')
    results[name].append(json.loads(result.read_text(encoding='utf-8')))
    command_line.say(f'\n{show(results)}')
  return results

"""A comparison of networks that are trained on one data set: its runs, and how they are made."""
import abc
import argparse
import collections
from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
import types
from typing import Any, NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np
import steps
from studies import data as data_lib
from studies import subjects
from tensorboard.backend.event_processing import event_accumulator
import tensorflow as tf

from official_ext import registry_imports
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files

Results = dict[str, list[dict[str, float]]]

# In the folder of a run: what it is trained with.
_OPTIONS = 'options.txt'


class Run(NamedTuple):
  """A training by its experiment.

  Attributes:
    experiment: its registered name.
    overrides: `field=value,field=value`, as `--params_override` takes them; may be empty.
  """
  experiment: str
  overrides: str = ''


class Training(NamedTuple):
  """A finished training: its resolved experiment and its folder."""
  params: Any
  folder: pathlib.Path


class Comparison(abc.ABC):
  """The part of a comparison that is its own: its runs, the results it keeps, and its table.

  Attributes:
    default_runs: names of the runs, if the command line names none.
    allowed: the names that exist, as errors and `--help` show them.
    evaluations: name -> overrides of further evaluations of every training.
  """
  default_runs: Sequence[str]
  allowed: str
  evaluations: Mapping[str, str] = types.MappingProxyType({})

  def add_arguments(self, parser: argparse.ArgumentParser) -> None:
    """Adds the flags that only this comparison has; here none."""
    del parser

  @abc.abstractmethod
  def resolve(self, name: str, args: argparse.Namespace) -> Run | None:
    """Returns the training that a name stands for; None: there is none of this name."""

  @abc.abstractmethod
  def summarize(self, params: Any, evaluation: dict[str, float]) -> dict[str, float]:
    """Returns what the table needs of a training.

    Args:
      params: its resolved experiment.
      evaluation: what its last evaluation logged, by name; of those of `evaluations`, by the
        name of the evaluation, `/` and the name.
    """

  @abc.abstractmethod
  def table(self, results: Results, milliseconds: dict[str, dict[str, float]]) -> str:
    """Returns the results as a Markdown table, one row per name.

    Args:
      results: name -> what `summarize` returned for each of its trainings.
      milliseconds: what `latencies` returned; empty as long as it has not been called.
    """

  def latencies(self, trainings: dict[str, Training], args: argparse.Namespace
                ) -> dict[str, dict[str, float]]:
    """Returns name -> part -> milliseconds per image; empty where nothing is timed."""
    del trainings, args
    return {}


def _size(text: str) -> str:
  """Returns `HEIGHT,WIDTH` as the configuration takes it.

  Raises:
    ArgumentTypeError: anything else.
  """
  if not re.fullmatch(r'[1-9]\d*,[1-9]\d*', text):
    raise argparse.ArgumentTypeError(
        f'{text!r} is not HEIGHT,WIDTH in pixels, such as 192,256.')
  return f'[{text},3]'


def add_image_size(parser: argparse.ArgumentParser) -> None:
  """Adds the flag `--image_size`; `sized` makes overrides of its value."""
  parser.add_argument('--image_size', type=_size, metavar='HEIGHT,WIDTH',
                      help='size into which images are fitted, multiples of 64 (256,256)')


def sized(overrides: str, image_size: str | None) -> str:
  """Returns overrides of a run, and those that give its images another size.

  Args:
    overrides: of the run; may be empty.
    image_size: as `add_image_size` reads it; None: the size of the experiment.
  """
  size = f'task.model.input_size={image_size}' if image_size else ''
  return ','.join(text for text in (overrides, size) if text)


def run_overrides(args: argparse.Namespace, *more: str) -> str:
  """Returns the `--params_override` of a run.

  Args:
    args: `data`, a folder, and `train_steps`, None for those of the experiment.
    *more: what is the run's own; may be empty.
  """
  fields = subjects.schedule(args.train_steps, str(args.data))
  return ','.join(filter(None, [subjects.override(fields), *more]))


def command(module: str, **options: Any) -> None:
  """Runs `python -m official_ext.<module> --option=value ...`; standard error is not shown.

  Args:
    module: of the command.
    **options: its flags; a list gives a flag several times.

  Raises:
    CommandError: it failed; the text has the line of its standard error that says why.
  """
  arguments = [f'--{key}={value}' for key, values in options.items()
               for value in (values if isinstance(values, list) else [values])]
  result = subprocess.run(
      [sys.executable, '-m', f'official_ext.{module}', *arguments], check=False, text=True,
      stderr=subprocess.PIPE, env={**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'})
  if result.returncode:
    raise command_line.CommandError(
        f'official_ext.{module} {" ".join(arguments)} ended with status {result.returncode}: '
        f'{steps.reason(result.stderr)}')


def last_evaluation(model_dir: pathlib.Path) -> dict[str, float]:
  """Returns what the trainer's last evaluation wrote for TensorBoard, by name."""
  events = event_accumulator.EventAccumulator(
      str(model_dir / 'validation'), size_guidance={event_accumulator.TENSORS: 0})
  events.Reload()
  return {name: float(tf.make_ndarray(events.Tensors(name)[-1].tensor_proto))
          for name in events.Tags()['tensors']}


def precision_columns(runs: Sequence[dict[str, float]]) -> str:
  """Returns the columns `runs | AP | AP50` of a table: means, and the spread of AP if any."""
  ap, ap50 = ([run[name] for run in runs] for name in ('AP', 'AP50'))
  spread = f' ({min(ap):.3f} to {max(ap):.3f})' if len(runs) > 1 else ''
  return f'{len(runs)} | {np.mean(ap):.3f}{spread} | {np.mean(ap50):.3f}'


def _flags(run: Run, args: argparse.Namespace) -> dict[str, Any]:
  """Returns the trainer's flags for a run."""
  return {'experiment': run.experiment,
          'config_file': args.output_dir / 'records' / 'overrides.yaml',
          'params_override': run_overrides(args, run.overrides)}


def _params(run: Run, args: argparse.Namespace) -> Any:
  """Returns the resolved experiment of a run."""
  flags = _flags(run, args)
  return experiment.resolve(
      run.experiment, [str(flags['config_file'])], flags['params_override'], lock=False)


def _options_text(run: Run, args: argparse.Namespace) -> str:
  """Returns the content of the file that says what a run is trained with, and on what."""
  overrides = run_overrides(args, run.overrides)
  return f'{run.experiment} on {args.data}\n{overrides}'


def _check_kept(folders: Mapping[pathlib.Path, Run], args: argparse.Namespace) -> None:
  """Checks that kept runs were trained with the options and the data of now.

  Args:
    folders: folder of a run -> the run.
    args: of the command line.

  Raises:
    CommandError: a run was not.
  """
  for folder, run in folders.items():
    path = folder / _OPTIONS
    if path.is_file() and path.read_text(encoding='utf-8').strip() != _options_text(run, args):
      raise command_line.CommandError(
          f'{folder} is kept from a training with other options or other --data ({path}): give '
          'another --output_dir, or the options of then.')


def _train(compared: Comparison, run: Run, folder: pathlib.Path, args: argparse.Namespace
           ) -> dict[str, float]:
  """Trains from the last checkpoint on, evaluates, and returns what the table needs."""
  evaluations = folder / 'validation'
  # An evaluation that was interrupted may have written some of its numbers.
  shutil.rmtree(evaluations, ignore_errors=True)
  command('train', mode='train_and_eval', model_dir=folder, **_flags(run, args))
  if not evaluations.exists():
    # The trainer evaluates after a training step, and here none was left.
    command('train', mode='eval', model_dir=folder, **_flags(run, args))
  found = last_evaluation(folder)
  for name, overrides in compared.evaluations.items():
    other = run._replace(overrides=','.join(text for text in (run.overrides, overrides) if text))
    command('train', mode='eval', model_dir=folder, **_flags(other, args))
    found |= {f'{name}/{key}': value for key, value in last_evaluation(folder).items()}
  return compared.summarize(_params(run, args), found)


def run_all(compared: Comparison, names: Sequence[str], args: argparse.Namespace) -> None:
  """Converts the data, trains what has not been trained yet, times, and writes the table.

  Args:
    compared: the comparison.
    names: of the runs; one that is named several times is trained several times.
    args: of the command line: `data`, `output_dir`, `train_steps` and those of the comparison;
      `command`, the whole of it.

  Raises:
    CommandError: there is no run of some name, a kept one is of other options or data, or of
      data that have changed since, or nothing can be evaluated.
  """
  runs = {name: compared.resolve(name, args) for name in names}
  unknown = sorted(name for name, run in runs.items() if run is None)
  if unknown:
    raise command_line.CommandError(
        f'--runs names {", ".join(unknown)}; allowed are {compared.allowed}.')
  folders = [args.output_dir / f'{name}-{names[:number].count(name)}'
             for number, name in enumerate(names, 1)]
  _check_kept({folder: runs[name] for name, folder in zip(names, folders)}, args)
  records = args.output_dir / 'records'
  command('tools.convert_dataset', input=args.data, output_dir=records)
  data_lib.check_objects(records / 'annotations' / 'val.json', f'--data={args.data}')
  data_lib.check_unchanged(args.output_dir, records, f'--data={args.data}')
  results: Results = collections.defaultdict(list)
  seconds: list[float] = []
  for number, (name, folder) in enumerate(zip(names, folders), 1):
    kept = folder / 'result.json'
    _write(folder / _OPTIONS, _options_text(runs[name], args))
    if not kept.is_file():
      command_line.say(f'\n[{number}/{len(names)}] training {name} in {folder}')
      start = time.monotonic()
      _write(kept, json.dumps(_train(compared, runs[name], folder, args), indent=2))
      seconds.append(time.monotonic() - start)
      left = sum(not (other / 'result.json').is_file() for other in folders[number:])
      command_line.say(f'{command_line.duration(seconds[-1])} for {name}, about '
                       f'{command_line.duration(np.mean(seconds) * left)} left')
    results[name].append(json.loads(kept.read_text(encoding='utf-8')))
    command_line.say(f'\n{compared.table(results, {})}')
  _finish(compared, runs, results, args)


def _finish(compared: Comparison, runs: dict[str, Run], results: Results,
            args: argparse.Namespace) -> None:
  """Times the first training of every name, where the comparison does, and writes the table."""
  milliseconds = compared.latencies(
      {name: Training(_params(run, args), args.output_dir / f'{name}-1')
       for name, run in runs.items()}, args)
  table = compared.table(results, milliseconds)
  if milliseconds:
    command_line.say(f'\n{table}')
  _write(args.output_dir / 'table.md',
         f'    .venv/bin/python scripts/compare.py {args.command}\n\n{table}')
  _write(args.output_dir / 'table.json',
         json.dumps({'results': results, 'milliseconds': milliseconds}, indent=2))
  command_line.say(f'Wrote {args.output_dir}/table.md')


def _write(path: pathlib.Path, text: str) -> None:
  with files.atomic_file(path) as temporary:
    temporary.write_text(f'{text}\n', encoding='utf-8')

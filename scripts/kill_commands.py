r"""Kills commands at random moments: each works again, and nothing half-written is taken for whole.

    .venv/bin/python scripts/kill_commands.py --number 500
    .venv/bin/python scripts/kill_commands.py --number 20 --commands convert train

A small data set is composed, converted, trained on for a few steps, exported, predicted and
reported on.  Then each command in turn is started again and killed by SIGKILL; half of the times
its output of an earlier run is there.  What it leaves must be the earlier output, whole, or
nothing, or the new output, whole; the same command must then end well, and leave no temporary
file.  The exit status is 1 if anything else is found.

Commands run in processes that are forked from this one, which has imported what they need: most of
the time of a short command would go into imports.
"""
import argparse
from collections.abc import Callable
import hashlib
import importlib
import json
import multiprocessing
import os
import pathlib
import random
import runpy
import shutil
import subprocess
import sys
import time
from typing import NamedTuple

import official_ext  # noqa: F401 (chooses Keras 2)
from official_ext.utils import argument_types
from official_ext.utils import command_line

# The smallest network, because every run traces it anew.
_EXPERIMENT = 'retinanet_fpn_efficientnetlite0_sample'
_STEPS = 4
_POLL_SECONDS = 0.002
_OVERRIDES = ','.join((
    'task.init_checkpoint=null', 'task.model.backbone.type=resnet',
    'task.model.backbone.resnet.model_id=18', 'task.model.backbone.resnet.depth_multiplier=0.25',
    'task.model.input_size=[64,64,3]', 'task.model.max_level=5', 'task.model.head.num_convs=1',
    'task.train_data.global_batch_size=2', 'task.validation_data.global_batch_size=2',
    f'trainer.train_steps={_STEPS}', 'trainer.steps_per_loop=1', 'trainer.summary_interval=1',
    'trainer.checkpoint_interval=1', f'trainer.validation_interval={_STEPS}',
    'task.train_data.shuffle_buffer_size=4'))


class Command(NamedTuple):
  """A command that is killed.

  Attributes:
    arguments: after `python -m`.
    output: the file or folder that it writes.
    is_whole: called with the output; whether nothing of it is missing.
    is_resumed: whether the next run goes on with what a killed one leaves.
  """
  arguments: list[str]
  output: pathlib.Path
  is_whole: Callable[[pathlib.Path], bool]
  is_resumed: bool = False


def _has_records(folder: pathlib.Path) -> bool:
  """Whether every file of dataset.json is there, with all images in the annotation files."""
  dataset = json.loads((folder / 'dataset.json').read_text(encoding='utf-8'))
  splits = dataset['splits'].values()
  return (folder / 'report.json').is_file() and (folder / 'overrides.yaml').is_file() and all(
      len(list(folder.glob(split['file_pattern']))) == split['num_files'] and
      len(json.loads((folder / split['annotation_file']).read_text(encoding='utf-8'))['images'])
      == split['num_images'] for split in splits)


def _has_last_checkpoint(folder: pathlib.Path) -> bool:
  return all((folder / f'ckpt-{_STEPS}{end}').is_file()
             for end in ('.index', '.data-00000-of-00001'))


def _has_model(folder: pathlib.Path) -> bool:
  return bool(json.loads((folder / 'export.json').read_text(encoding='utf-8'))) and all(
      (folder / name).is_file() for name in (
          'saved_model.pb', 'variables/variables.index', 'params.yaml'))


def _has_predictions(folder: pathlib.Path) -> bool:
  costs = json.loads((folder / 'costs.json').read_text(encoding='utf-8'))
  return isinstance(json.loads((folder / 'predictions.json').read_text(encoding='utf-8')), list) \
      and len(list((folder / 'drawn').iterdir())) == len(costs['images'])


def _has_page(file: pathlib.Path) -> bool:
  return file.read_text(encoding='utf-8').rstrip().endswith('</html>')


def commands(folder: pathlib.Path, data: pathlib.Path) -> dict[str, Command]:
  """Returns the commands by name, each of which needs the outputs of those before it.

  Args:
    folder: for all outputs.
    data: a data set that convert_dataset takes.
  """
  records, model, exported, predictions, images, page = (
      folder / name / name
      for name in ('records', 'model', 'saved_model', 'predictions', 'images', 'page'))
  shown = [f'--images={images / "images"}', f'--annotation_file={images / "annotations.json"}']
  return {
      'convert': Command(['official_ext.tools.convert_dataset', f'--input={data}',
                          f'--output_dir={records}'], records, _has_records),
      'images': Command(['official_ext.tools.write_images', f'--data={records}',
                         f'--output_dir={images}'], images,
                        lambda path: (path / 'annotations.json').is_file()),
      'train': Command(['official_ext.train', f'--experiment={_EXPERIMENT}',
                        '--mode=train_and_eval', f'--model_dir={model}',
                        f'--config_file={records / "overrides.yaml"}',
                        f'--params_override={_OVERRIDES}'], model, _has_last_checkpoint, True),
      'export': Command(['official_ext.serving.export_saved_model', f'--experiment={_EXPERIMENT}',
                         f'--checkpoint_path={model}', f'--config_file={model / "params.yaml"}',
                         f'--export_dir={exported}'], exported, _has_model),
      'predict': Command(['official_ext.tools.predict', f'--saved_model={exported}', *shown,
                          f'--output_dir={predictions}', '--evaluate'], predictions,
                         _has_predictions),
      'report': Command(['official_ext.tools.report', f'--experiment={_EXPERIMENT}',
                         f'--model_dir={model}', f'--predictions={predictions}',
                         f'--saved_model={exported}', *shown, f'--output_dir={page}'],
                        page / 'report.html', _has_page),
  }


def _run_module(arguments: list[str], log: pathlib.Path) -> None:
  """Runs `python -m` with arguments in this process; all that it prints goes into a file."""
  log.parent.mkdir(parents=True, exist_ok=True)
  with log.open('wb') as file:
    os.dup2(file.fileno(), sys.stdout.fileno())
    os.dup2(file.fileno(), sys.stderr.fileno())
  sys.argv = arguments
  runpy.run_module(arguments[0], run_name='__main__', alter_sys=True)


def _log_file(command: Command) -> pathlib.Path:
  return command.output.parent.with_name(f'{command.output.parent.name}.txt')


def _start(command: Command) -> multiprocessing.Process:
  process = multiprocessing.get_context('fork').Process(
      target=_run_module, args=(command.arguments, _log_file(command)))
  process.start()
  return process


def run(command: Command) -> float:
  """Runs a command to its end; returns the seconds that it took.

  Args:
    command: the command.

  Raises:
    CommandError: the command failed, or its output is not whole.
  """
  start = time.monotonic()
  process = _start(command)
  process.join()
  if process.exitcode or not command.is_whole(command.output):
    output = _log_file(command).read_text(encoding='utf-8', errors='replace')
    raise command_line.CommandError(
        f'{" ".join(command.arguments)} ended with status {process.exitcode}: {output[-2000:]}')
  return time.monotonic() - start


def digest(path: pathlib.Path) -> str | None:
  """Returns a digest of the names and contents of an output, None if there is none."""
  if not path.exists():
    return None
  digest = hashlib.sha256()
  for file in sorted(path.rglob('*')) if path.is_dir() else [path]:
    digest.update(str(file.relative_to(path)).encode())
    digest.update(file.read_bytes() if file.is_file() else b'')
  return digest.hexdigest()


def _names(folder: pathlib.Path) -> set[str]:
  return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def kill(command: Command, choices: random.Random, seconds: float) -> str:
  """Starts a command, kills it at a random moment, and says what is wrong with what it leaves.

  Half of the moments are at any time, half are after it began to write.

  Args:
    command: the command.
    choices: chooses the moment.
    seconds: that the whole command takes.

  Returns:
    A sentence; empty if the output is the earlier one, absent, or new and whole.
  """
  before, names = digest(command.output), _names(command.output.parent)
  waits_for_files = choices.random() < 0.5
  delay = choices.uniform(0, 0.2 * seconds if waits_for_files else 1.1 * seconds)
  process = _start(command)
  while (waits_for_files and process.exitcode is None and
         _names(command.output.parent) == names):
    time.sleep(_POLL_SECONDS)
  process.join(delay)
  process.kill()
  process.join()
  after = digest(command.output)
  if command.is_resumed or after in (None, before):
    return ''
  try:
    is_whole = command.is_whole(command.output)
  except (OSError, ValueError, KeyError) as error:
    return f'{command.output} is damaged after {delay:.2f} s: {error!r}'
  return '' if is_whole else f'{command.output} is not whole after {delay:.2f} s'


def try_once(command: Command, choices: random.Random, seconds: float) -> list[str]:
  """Kills a command once or twice, runs it to its end, and returns what is wrong.

  Args:
    command: the command, whose earlier output exists.
    choices: makes all choices.
    seconds: that the whole command takes.
  """
  place = command.output.parent
  if choices.random() < 0.5:
    shutil.rmtree(place)
    place.mkdir()
  problems = [kill(command, choices, seconds) for _ in range(choices.choice((1, 1, 2)))]
  try:
    run(command)
  except (command_line.CommandError, OSError, ValueError, KeyError) as error:
    problems.append(f'does not work again: {error}')
  left = {name for name in _names(place) if name.startswith('.')}
  if left:
    problems.append(f'left in {place}: {", ".join(sorted(left))}')
  return [problem for problem in problems if problem]


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  parser.add_argument('--number', type=argument_types.positive_int, default=50, metavar='N',
                      help='how many times to kill a command (50)')
  parser.add_argument('--seed', type=argument_types.whole_number, default=0, metavar='S',
                      help='of the random moments (0)')
  parser.add_argument('--commands', nargs='+', metavar='NAME',
                      default=['convert', 'train', 'export', 'predict', 'report'],
                      choices=['convert', 'images', 'train', 'export', 'predict', 'report'],
                      help='which commands to kill in turn, each as often as it is named; default: '
                      'convert train export predict report')
  parser.add_argument('--work_dir', type=pathlib.Path, default=pathlib.Path('runs/kill_commands'),
                      metavar='DIR', help='replaced (runs/kill_commands)')
  return parser.parse_args()


def main() -> None:
  """Kills all commands in turn and prints what is wrong."""
  args = _arguments()
  for command in commands(args.work_dir, args.work_dir).values():
    importlib.import_module(command.arguments[0])
  shutil.rmtree(args.work_dir, ignore_errors=True)
  data = args.work_dir / 'data' / 'coco'
  subprocess.run([sys.executable, '-m', 'official_ext.tools.make_sample_data',
                  f'--output_dir={data}', '--num_train=40', '--num_val=8'], check=True)
  seconds = {}
  for name, command in commands(args.work_dir, data).items():
    seconds[name] = run(command)
    command_line.say(f'{name}: {seconds[name]:.1f} s')
  choices, failed = random.Random(args.seed), 0
  for index in command_line.progress(range(args.number), 'kills', args.number):
    name = args.commands[index % len(args.commands)]
    problems = try_once(commands(args.work_dir, data)[name], choices, seconds[name])
    failed += bool(problems)
    for problem in problems:
      command_line.say(f'{name}, kill {index}: {problem}')
  command_line.say(f'{failed} of {args.number} kills did harm')
  if failed:
    sys.exit(1)


if __name__ == '__main__':
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  command_line.run(main)

"""The main job: from a folder of images to a trained, evaluated, exported dynamic detector.

Every step is one of the package's commands and is printed before it runs, so that it can be
repeated alone.  What is wrong with the data ends the run before the training.
All steps take eight to thirteen minutes on two cores.
"""
import argparse
import contextlib
import json
import os
import pathlib
import shlex
import subprocess
import sys
import time

from official_ext.utils import command_line
from official_ext.utils import files

EXPERIMENT = 'retinanet_dyfpn_efficientnetlite0_sample'
SAMPLE = pathlib.Path('runs/sample')


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='scripts/quickstart.sh', description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', type=pathlib.Path, metavar='FOLDER',
                      help='folder or zip file of a data set in any layout that convert_dataset '
                      'takes; default: a sample composed from what installed packages ship')
  parser.add_argument('--output_dir', type=pathlib.Path, default=pathlib.Path('runs/quickstart'),
                      metavar='DIR', help='default: runs/quickstart')
  parser.add_argument('--train_steps', type=int, metavar='N',
                      help='default: what the experiment says')
  parser.add_argument('--params_override', metavar='FIELD=VALUE,...',
                      help='more options of the experiment, as official_ext.train takes them: '
                      'task.model.input_size=[320,320,3]')
  return parser.parse_args()


class Steps:
  """Runs commands one after the other and keeps the time of each.

  Attributes:
    seconds: name of a finished step -> its time.
  """

  def __init__(self, total: int):
    self.seconds = {}
    self._total = total

  def run(self, name: str, module: str, log: pathlib.Path | None = None, **options) -> None:
    """Runs `python -m official_ext.<module> --option=value ...`.

    Args:
      name: name of the step in the report.
      module: module of the command, below `official_ext`.
      log: file that gets the command's standard error; None: it is shown.
      **options: flags of the command; True gives a flag without a value.

    Raises:
      CommandError: the command failed.
    """
    arguments = [f'--{key}' if value is True else f'--{key}={value}'
                 for key, value in options.items()]
    shown = shlex.join(['python', '-m', f'official_ext.{module}', *arguments])
    command_line.say(f'\n[{len(self.seconds) + 1}/{self._total}] {name}: {shown}')
    start = time.monotonic()
    environment = {**os.environ, 'TF_CPP_MIN_LOG_LEVEL': '2'}
    with contextlib.ExitStack() as stack:
      errors = None
      if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        errors = stack.enter_context(open(log, 'w', encoding='utf-8'))
      status = subprocess.run(
          [sys.executable, '-m', f'official_ext.{module}', *arguments], env=environment,
          stderr=errors, check=False).returncode
    if status:
      end = f'{log} ends with: {log.read_text().strip().splitlines()[-1]}. It' if log else 'It'
      raise command_line.CommandError(f'the step {name!r} ended with status {status}. {end} can '
                                      'be repeated alone by the command above.')
    self.seconds[name] = round(time.monotonic() - start, 1)


def _overrides(args: argparse.Namespace) -> dict[str, str]:
  """Returns the trainer's flag `params_override`, if anything differs from the experiment."""
  overrides = []
  if args.data:
    # The experiment does not mirror, because the digits of its sample must not be.
    overrides.append('task.train_data.parser.aug_rand_hflip=true')
  if args.train_steps:
    overrides += [f'trainer.train_steps={args.train_steps}',
                  f'trainer.validation_interval={args.train_steps}',
                  f'trainer.optimizer_config.learning_rate.cosine.decay_steps={args.train_steps}']
  if args.params_override:
    overrides.append(args.params_override)
  return {'params_override': ','.join(overrides)} if overrides else {}


def _keep_previous(output: pathlib.Path) -> None:
  """Renames the folder of an earlier run: a training would resume from its checkpoints."""
  if not output.exists():
    return
  number = 1
  while (kept := output.with_name(f'{output.name}.{number}')).exists():
    number += 1
  output.rename(kept)
  command_line.say(f'{output} of an earlier run is now {kept}')


def main() -> None:
  """Runs all steps."""
  args = _arguments()
  output, data = args.output_dir, args.data
  if data and not data.exists():
    raise command_line.CommandError(f'--data={data}: no such file or folder.')
  _keep_previous(output)
  model, exported, predictions = output / 'model', output / 'saved_model', output / 'predictions'
  records = output / 'records' if data else SAMPLE / 'records'
  steps = Steps(total=8 if data is None else 7)
  if data is None:
    data = SAMPLE / 'coco'
    steps.run('sample', 'tools.make_sample_data', output_dir=data)
  steps.run('convert', 'tools.convert_dataset', input=data, output_dir=records)
  steps.run('check', 'tools.check_dataset', data=records, output=output / 'data.png')
  # Predictions are on the images of the records, because every layout has others elsewhere.
  steps.run('images', 'tools.write_images', data=records, output_dir=output / 'val')
  steps.run('train', 'train', log=output / 'train.log', experiment=EXPERIMENT,
            mode='train_and_eval', model_dir=model, config_file=records / 'overrides.yaml',
            **_overrides(args))
  steps.run('export', 'serving.export_saved_model', experiment=EXPERIMENT, checkpoint_path=model,
            export_dir=exported, config_file=model / 'params.yaml')
  images, annotations = output / 'val' / 'images', output / 'val' / 'annotations.json'
  steps.run('predict', 'tools.predict', saved_model=exported, images=images,
            annotation_file=annotations, output_dir=predictions, batch_size=8, evaluate=True)
  seconds = output / 'seconds_by_step.json'
  with files.atomic_file(seconds) as temporary:
    temporary.write_text(json.dumps(steps.seconds, indent=2), encoding='utf-8')
  steps.run('report', 'tools.report', experiment=EXPERIMENT, model_dir=model, images=images,
            annotation_file=annotations, predictions=predictions, saved_model=exported,
            seconds_by_step=seconds, output_dir=output)
  command_line.say(f'\nDone in {command_line.duration(sum(steps.seconds.values()))}: open '
                   f'{output}/report.html')


if __name__ == '__main__':
  command_line.run(main)

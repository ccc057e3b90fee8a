"""Trains the detector of `python -m official_ext.tools.predict --demo`, and writes data/demo.

A dynamic head that takes a budget, on the nuclei of data/nuclei: weights as float16, the
experiment, and three images of the validation split, by which none of the weights were chosen.
"""
import argparse
import pathlib
import shutil

import quickstart
from studies import subjects
import yaml

from official_ext.serving import export_saved_model
from official_ext.utils import argument_types
from official_ext.utils import checkpoints
from official_ext.utils import command_line
from official_ext.utils import experiment
from official_ext.utils import files
from official_ext.utils import half_checkpoints

# Budgets are drawn from 0.1 to 0.9 from the first step on: the demo shows low budgets, which learn
# less where budgets start near 1 (docs/budgets.md).
_NETWORK = subjects.dynamic_head_budget()
SUBJECT = _NETWORK._replace(
    options={**_NETWORK.options, 'task.budget.draw_range': [0.1, 0.9]}, shrinking=0.0)
# Fluorescence with few and with many nuclei, and stained tissue.
IMAGES = ('52a4ac5a875be7a6.jpg', '1f9e429c12f44772.jpg', '2c61fdcb36fd1b29.jpg')
DEMO = pathlib.Path(__file__).resolve().parents[1] / 'data' / 'demo'


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--train_steps', type=argument_types.positive_int, default=600, metavar='N',
                      help='of eight images (600)')
  parser.add_argument('--output_dir', type=pathlib.Path, default=pathlib.Path('runs/make_demo'),
                      metavar='DIR', help='folder of the training (runs/make_demo)')
  parser.add_argument('--demo_dir', type=pathlib.Path, default=DEMO, metavar='DIR',
                      help='folder to write (data/demo)')
  args = parser.parse_args()
  args.data, args.params_override = quickstart.NUCLEI, None
  return args


def pack(model_dir: pathlib.Path, name: str, target: pathlib.Path) -> None:
  """Writes what `official_ext.tools.demo` reads, beside what is there.

  Args:
    model_dir: folder of a training.
    name: the experiment that was trained.
    target: the folder.
  """
  params = experiment.resolve(name, [str(model_dir / 'params.yaml')], lock=False)
  target.mkdir(parents=True, exist_ok=True)
  half_checkpoints.pack(checkpoints.find(model_dir), target / 'weights.npz')
  for file, text in (('experiment.txt', name), ('params.yaml', yaml.safe_dump(
      export_saved_model.without_local_paths(params.as_dict())))):
    with files.atomic_file(target / file) as temporary:
      temporary.write_text(f'{text}\n', encoding='utf-8')
  shutil.copy(model_dir / 'categories.json', target)


def main() -> None:
  """Converts, trains and packs; a training that was interrupted goes on."""
  args = _arguments()
  from official_ext import registry_imports
  steps = quickstart.Steps(total=2)
  records, model = args.output_dir / 'records', args.output_dir / 'model'
  steps.run('convert', 'tools.convert_dataset', input=args.data, output_dir=records)
  steps.run('train', 'train', log=args.output_dir / 'train.log', experiment=SUBJECT.experiment,
            mode='train', model_dir=model, config_file=records / 'overrides.yaml',
            params_override=quickstart.training_overrides(args, SUBJECT, subjects.FROZEN))
  pack(model, SUBJECT.experiment, args.demo_dir)
  (args.demo_dir / 'images').mkdir(exist_ok=True)
  for name in IMAGES:
    shutil.copy(args.data / 'images' / name, args.demo_dir / 'images')
  command_line.say(f'Wrote {args.demo_dir}')


if __name__ == '__main__':
  command_line.run(main)

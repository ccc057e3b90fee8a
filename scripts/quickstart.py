"""The main job: from a folder of images to trained, evaluated, exported detectors side by side.

Every step is one of the package's commands and is printed before it runs, so that it can be
repeated alone.  What is wrong with the data ends the run before the training.  The report says
which network to use for this data, and shows the last one in detail.
"""
import argparse
from collections.abc import Sequence
import importlib.util
import json
import pathlib
from typing import Any, NamedTuple

from steps import Steps
from studies import data as data_lib
from studies import subjects
from studies.subjects import DIGITS
from studies.subjects import NETWORKS
from studies.subjects import SAMPLE
from studies.subjects import Subject

from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import files


BUDGETS = '0,0.25,0.5,0.75,1'
_QUICK = {'output_dir': pathlib.Path('runs/quickstart'), 'train_steps': 150,
          'networks': ['fcos', 'fcos_dyfpn', 'dynamic_head_d1_budget']}
_FULL = {'output_dir': pathlib.Path('runs/full'), 'train_steps': 1000, 'networks': list(NETWORKS)}
_FULL_REPEATS = 3
_RESAMPLES = 200
# So few steps cannot improve what ImageNet taught the backbone: of FCOS on the nuclei, 150 steps
# with these stages frozen take 0.6 of the time of those with `subjects.FROZEN`, for an AP that is
# not lower.
_FROZEN = ('stem', 'conv2_x', 'conv3_x', 'conv4_x')
# Nuclei of cells in pictures of two kinds of microscope, which the checkout carries.
NUCLEI = pathlib.Path(__file__).resolve().parents[1] / 'data' / 'nuclei'


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      prog='scripts/quickstart.sh', description=__doc__, allow_abbrev=False,
      formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', type=pathlib.Path, metavar='FOLDER',
                      default=NUCLEI, help='folder or zip file of a data set in any layout that '
                      f'convert_dataset takes; {DIGITS}: handwritten digits over photographs, '
                      'composed from what installed packages ship; default: the nuclei of cells '
                      'in data/nuclei')
  parser.add_argument('--full', action='store_true',
                      help='decide properly: every network is trained three times, for 1000 steps, '
                      'and one page has their accuracy with intervals, cost and times; takes '
                      'hours (the time left is shown), and goes on where it was interrupted')
  parser.add_argument('--output_dir', type=pathlib.Path, metavar='DIR',
                      help='default: runs/quickstart, with --full runs/full')
  parser.add_argument('--train_steps', type=argument_types.positive_int, metavar='N',
                      help='of eight images, for each network; default: 150, with --full 1000')
  parser.add_argument('--networks', type=_networks, metavar='A,B,...',
                      help=f'what is trained, of {", ".join(NETWORKS)}: the first is what people '
                      'have, with which the others are compared, and the last is shown in detail; '
                      'those that end with _budget are shown at the budget that '
                      'official_ext.tools.frontier recommends; CADDet, whose backbone needs a '
                      'pre-training of your own, is left out (scripts/compare.py caddet); default: '
                      'fcos,fcos_dyfpn,dynamic_head_d1_budget, with --full all')
  parser.add_argument('--engine', choices=('openvino', 'none'),
                      default='openvino' if importlib.util.find_spec('openvino') else 'none',
                      help='another engine than TensorFlow to convert the networks for and to '
                      'time them in; default: openvino where it is installed')
  parser.add_argument('--params_override', metavar='FIELD=VALUE,...',
                      help='more options of the experiment, as official_ext.train takes them: '
                      'task.model.input_size=[320,320,3]')
  args = parser.parse_args()
  if args.full and args.params_override:
    parser.error('--full trains every network with its own options: leave --params_override out.')
  defaults = _FULL if args.full else _QUICK
  for name, value in defaults.items():
    if getattr(args, name) is None:
      setattr(args, name, value)
  return args


def _networks(text: str) -> list[str]:
  """Parses `--networks`."""
  names = text.split(',')
  unknown = [name for name in names if name not in NETWORKS]
  if unknown or len(set(names)) < len(names):
    raise argparse.ArgumentTypeError(
        f'{text!r} is not a list of different ones of {", ".join(NETWORKS)}')
  return names


class Network(NamedTuple):
  """A network that is trained.

  Attributes:
    name: of `NETWORKS`.
    folder: of what is written.
    suffix: of the names of its steps in the report.
  """
  name: str
  folder: pathlib.Path
  suffix: str

  @property
  def model(self) -> pathlib.Path:
    return self.folder / 'model'

  @property
  def subject(self) -> Subject:
    return NETWORKS[self.name]

  @property
  def exported(self) -> pathlib.Path:
    return self.folder / 'saved_model'

  @property
  def frontier(self) -> pathlib.Path:
    return self.folder / 'frontier'

  @property
  def predictions(self) -> pathlib.Path:
    return self.folder / 'predictions'


def training_overrides(args: argparse.Namespace, subject: Subject,
                       frozen: Sequence[str] = _FROZEN) -> str:
  """Returns the trainer's `params_override`: how long to train, and what the data needs."""
  fields = {**subjects.schedule(args.train_steps, str(args.data)),
            **subject.fields(args.train_steps, frozen)}
  return ','.join(filter(None, [subjects.override(fields), args.params_override]))


def _keep_previous(output: pathlib.Path, data: pathlib.Path) -> None:
  """Renames the folder of an earlier run: a training would resume from its checkpoints.

  Args:
    output: the folder, which need not exist.
    data: what the run reads.

  Raises:
    CommandError: the data or the current directory lie in the folder.
  """
  if not output.exists():
    return
  for place, what in ((data, f'--data={data}'), (pathlib.Path.cwd(), 'the current directory')):
    if place.resolve().is_relative_to(output.resolve()):
      raise command_line.CommandError(
          f'--output_dir={output} would be renamed, as the folder of an earlier run, and {what} '
          'lies in it: give a new folder.')
  number = 1
  while (kept := output.with_name(f'{output.name}.{number}')).exists():
    number += 1
  output.rename(kept)
  command_line.say(f'{output} of an earlier run is now {kept}')


def _train(steps: Steps, network: Network, args: argparse.Namespace, records: pathlib.Path
           ) -> None:
  """Trains a network, exports and converts it, and predicts the validation images.

  The training does not evaluate, because the predictions of the export are evaluated.
  """
  subject, suffix, val = network.subject, network.suffix, args.output_dir / 'val'
  steps.run(f'train{suffix}', 'train', log=network.folder / 'train.log',
            experiment=subject.experiment, mode='train', model_dir=network.model,
            config_file=records / 'overrides.yaml',
            params_override=training_overrides(args, subject))
  options: dict[str, Any] = {}
  if args.engine != 'none':
    options['nms'] = 'portable'
  steps.run(f'export{suffix}', 'serving.export_saved_model', experiment=subject.experiment,
            checkpoint_path=network.model, export_dir=network.exported,
            config_file=network.model / 'params.yaml', **options)
  if args.engine != 'none':
    _convert(steps, network, args.engine)
  options = {}
  if subject.budgets:
    steps.run(f'budgets{suffix}', 'tools.frontier', saved_model=network.exported, data=val,
              budgets=BUDGETS, batch_sizes=1, num_runs=5, output_dir=network.frontier,
              calibrate=True)
    table = json.loads((network.frontier / 'frontier.json').read_text(encoding='utf-8'))
    options['budget'] = table['recommended']
  steps.run(f'predict{suffix}', 'tools.predict', saved_model=network.exported,
            images=val / 'images', annotation_file=val / 'annotations.json',
            output_dir=network.predictions, batch_size=8, evaluate=True, resamples=_RESAMPLES,
            **options)


def _convert(steps: Steps, network: Network, engine: str) -> None:
  """Converts an export; where that is refused, the network is shown without times of the engine."""
  try:
    steps.run(f'{engine}{network.suffix}', 'serving.convert', to=engine,
              saved_model=network.exported, output_dir=network.folder / engine)
  except command_line.CommandError as error:
    command_line.say(f'{error} Going on: the report will not say what {network.name} takes in '
                     f'{engine}.')


def _report(steps: Steps, networks: Sequence[Network], args: argparse.Namespace) -> None:
  """Writes the report about the last network, with all side by side."""
  output = args.output_dir
  seconds = output / 'seconds_by_step.json'
  with files.atomic_file(seconds) as temporary:
    temporary.write_text(json.dumps(steps.seconds, indent=2), encoding='utf-8')
  shown = networks[-1]
  steps.run('report', 'tools.report', experiment=shown.subject.experiment, model_dir=shown.model,
            images=output / 'val' / 'images',
            annotation_file=output / 'val' / 'annotations.json', predictions=shown.predictions,
            saved_model=shown.exported, seconds_by_step=seconds, output_dir=output,
            network=[[one.name, one.exported, one.predictions,
                      *(path for path in [one.folder / args.engine] if path.exists())]
                     for one in networks])


def _run_full(args: argparse.Namespace) -> None:
  """Trains every network several times, and writes one page about them."""
  import evidence
  evidence.main([
      '--plan=full', f'--data=images={args.data}', f'--output_dir={args.output_dir}',
      f'--subjects={",".join(args.networks)}', f'--train_steps={args.train_steps}',
      f'--repeats={_FULL_REPEATS}', f'--engine={args.engine}'])


def main() -> None:
  """Runs all steps."""
  args = _arguments()
  output, data = args.output_dir, args.data
  is_composed = str(data) == DIGITS
  if not is_composed and not data.exists():
    raise command_line.CommandError(f'--data={data}: no such file or folder.')
  if args.full:
    _run_full(args)
    return
  _keep_previous(output, data)
  records = SAMPLE / 'records' if is_composed else output / 'records'
  *others, shown = args.networks
  networks = [*(Network(name, output / 'networks' / name, f' {name}') for name in others),
              Network(shown, output, '')]
  each = 3 + (args.engine != 'none')
  steps = Steps(total=4 + each * len(networks) + is_composed +
                sum(bool(one.subject.budgets) for one in networks))
  if is_composed:
    data = SAMPLE / 'coco'
    steps.run('sample', 'tools.make_sample_data', output_dir=data)
  steps.run('convert', 'tools.convert_dataset', input=data, output_dir=records)
  steps.run('check', 'tools.check_dataset', data=records, output=output / 'data.png')
  data_lib.check_objects(records / 'annotations' / 'val.json', f'--data={args.data}')
  # Predictions are on the images of the records, because every layout has others elsewhere.
  steps.run('images', 'tools.write_images', data=records, output_dir=output / 'val')
  for network in networks:
    _train(steps, network, args, records)
  _report(steps, networks, args)
  command_line.say(f'\nDone in {command_line.duration(sum(steps.seconds.values()))}: open '
                   f'{output}/report.html')


if __name__ == '__main__':
  command_line.run(main)

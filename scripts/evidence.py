"""Trains what a study compares, measures it, and writes one page with intervals.

    .venv/bin/python scripts/evidence.py --plan=frontier --data=nuclei=data/nuclei --repeats=3

A plan (`frontier`, detectors that take their budget beside separate trainings and plain detectors;
`gains`, the papers' networks beside what they extend; `information`, what may make gates differ by
image; `towers`, parts of the dynamic head beside plain towers; `wide`, FCOS with heads of 128
filters, which wants --image_size=512,640) is a list of networks, which are trained on every data
set, several times. Each is exported, evaluated from the export at every budget that it takes, with
a bootstrap over images, and converted for OpenVINO where that is installed. At the end all exports
of a data set are timed in one run, in turn. Everything that is finished is kept in --output_dir, by
other plans too, so that an interrupted study goes on; the time left is shown. The page has all
finished networks of the plan, whichever run trained them.

  <plan>.md, <plan>.json   tables, claims and the figures
  <plan>_<data set>.png    accuracy against multiply-adds and against time
"""
import argparse
from collections.abc import Iterator, Sequence
import importlib.util
import itertools
import json
import pathlib
import time
from typing import Any, NamedTuple

from comparisons import comparison
from studies import data as data_lib
from studies import measuring
from studies import page
from studies import plans
from studies import subjects
from studies.subjects import DIGITS
from studies.subjects import Subject
import yaml

from official_ext.utils import argument_types
from official_ext.utils import command_line
from official_ext.utils import files


# Files of a training: what it is trained with, and the points that were measured.
_OPTIONS, _RESULT = 'options.yaml', 'result.json'


class DataSet(NamedTuple):
  """A data set of a study.

  Attributes:
    name: of it.
    source: what `convert_dataset` reads, or `digits`.
  """
  name: str
  source: str


class Training(NamedTuple):
  """A network that is trained on a data set for the n-th time.

  Attributes:
    data: the data set.
    name: of the subject.
    number: from 1.
  """
  data: DataSet
  name: str
  number: int

  def folder(self, output: pathlib.Path) -> pathlib.Path:
    """Returns where it is kept."""
    return output / self.data.name / f'{self.name}-{self.number}'


def _data_set(text: str) -> DataSet:
  """Parses `--data`."""
  name, equals, source = text.partition('=')
  if not (name.replace('_', '').isalnum() and equals and source):
    raise argparse.ArgumentTypeError(f'{text!r} is not NAME=FOLDER, such as nuclei=data/nuclei')
  folder, colon, count = source.partition(':')
  if folder == DIGITS and colon and not (count.isdecimal() and int(count) >= 8):
    raise argparse.ArgumentTypeError(f'{text!r}: {DIGITS}:N needs a number of at least 8 images')
  return DataSet(name, source)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--plan', required=True, choices=sorted(plans.PLANS), help='what is compared')
  parser.add_argument('--data', required=True, action='append', type=_data_set,
                      metavar='NAME=FOLDER', help='a data set in any layout that convert_dataset '
                      f'takes; {DIGITS}, the composed sample of 320 images; or {DIGITS}:2000, '
                      'one of so many; may be given several times')
  parser.add_argument('--subjects', metavar='A,B,...', type=lambda text: text.split(','),
                      help='some of the networks of the plan (all)')
  parser.add_argument('--repeats', type=argument_types.positive_int, default=1, metavar='N',
                      help='trainings of each network (1)')
  parser.add_argument('--train_steps', type=argument_types.positive_int, default=500, metavar='N',
                      help='of each training (500)')
  parser.add_argument('--image_size', type=argument_types.image_size, default=(256, 256),
                      metavar='H,W', help='in pixels, multiples of 64 (256,256)')
  parser.add_argument('--resamples', type=argument_types.positive_int, default=200, metavar='N',
                      help='of the bootstrap over images (200)')
  parser.add_argument('--engine', choices=('openvino', 'none'),
                      default='openvino' if importlib.util.find_spec('openvino') else 'none',
                      help='another engine to convert for and to time in (openvino where it is '
                      'installed)')
  parser.add_argument('--output_dir', type=pathlib.Path, default=pathlib.Path('runs/evidence'),
                      metavar='DIR', help='folder to write, or to go on with (runs/evidence)')
  args = parser.parse_args(arguments)
  known = plans.PLANS[args.plan].subjects
  args.subjects = args.subjects or list(known)
  unknown = [name for name in args.subjects if name not in known]
  if unknown:
    parser.error(f'--subjects names {", ".join(unknown)}; {args.plan} has {", ".join(known)}')
  names = [data.name for data in args.data]
  if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
    parser.error(f'--data names {", ".join(twice)} twice')
  return args


def _trainings(args: argparse.Namespace) -> Iterator[Training]:
  """Yields all trainings: once each before any is repeated, so that a page is early complete."""
  for number in range(1, args.repeats + 1):
    for data in args.data:
      for name in args.subjects:
        yield Training(data, name, number)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
  """Returns what all results of a folder have in common."""
  return {'train_steps': args.train_steps, 'image_size': list(args.image_size),
          'resamples': args.resamples}


def _options(subject: Subject, data: DataSet, args: argparse.Namespace) -> dict[str, Any]:
  """Returns field -> value of a training."""
  return {**subjects.schedule(args.train_steps, data.source), **subject.fields(args.train_steps),
          **subject.sized(args.image_size)}


def nested(options: dict[str, Any]) -> dict[str, Any]:
  """Returns `{'a.b': 1}` as `{'a': {'b': 1}}`."""
  found: dict[str, Any] = {}
  for field, value in options.items():
    *parents, last = field.split('.')
    inner = found
    for parent in parents:
      inner = inner.setdefault(parent, {})
    inner[last] = value
  return found


def _options_text(training: Training, args: argparse.Namespace) -> str:
  """Returns the content of the file that says what a network is trained with."""
  subject = plans.PLANS[args.plan].subjects[training.name]
  options = yaml.safe_dump(nested(_options(subject, training.data, args)))
  return f'# {subject.experiment} on {training.data.source}\n{options}'


def _write_options(training: Training, args: argparse.Namespace) -> None:
  """Writes what a network is trained with, or checks that a kept one was trained with the same.

  Another plan may have another network of this name, and another study another data set.
  """
  path = training.folder(args.output_dir) / _OPTIONS
  text = _options_text(training, args)
  if path.is_file() and path.read_text(encoding='utf-8') != text:
    raise command_line.CommandError(
        f'{path.parent} is kept from a training with other options, experiment or --data than '
        f'{training.name} of --plan={args.plan} on {training.data.source} has: give another '
        '--output_dir.')
  with files.atomic_file(path) as temporary:
    temporary.write_text(text, encoding='utf-8')


def _train(training: Training, subject: Subject, args: argparse.Namespace) -> None:
  """Trains, exports, measures and converts a network, from where that stopped."""
  folder = training.folder(args.output_dir)
  records = args.output_dir / training.data.name / 'records'
  if not (folder / 'saved_model').exists():
    comparison.command('train', mode='train', model_dir=folder / 'model',
                       experiment=subject.experiment,
                       config_file=[records / 'overrides.yaml', folder / _OPTIONS])
    comparison.command('serving.export_saved_model', checkpoint_path=folder / 'model',
                       experiment=subject.experiment, nms='portable',
                       config_file=folder / 'model' / 'params.yaml',
                       export_dir=folder / 'saved_model')
  if args.engine != 'none' and not (folder / args.engine).exists():
    try:
      comparison.command('serving.convert', to=args.engine, saved_model=folder / 'saved_model',
                         output_dir=folder / args.engine)
    except command_line.CommandError as error:
      command_line.say(f'{error} Going on: the page will not say what {training.name} takes in '
                       f'{args.engine}.')
  points = measuring.points(folder / 'saved_model', args.output_dir / training.data.name / 'val',
                            subject.budgets, args.resamples)
  _write(folder / _RESULT, points)


def _write(path: pathlib.Path, value: Any) -> None:
  with files.atomic_file(path) as temporary:
    temporary.write_text(json.dumps(value, indent=2) + '\n', encoding='utf-8')


def _composed(data: DataSet) -> pathlib.Path:
  """Returns the folder of a composed sample, which is made if it is not there."""
  count = data.source.partition(':')[2]
  folder = subjects.SAMPLE.with_name(f'{subjects.SAMPLE.name}_{count}' if count
                                     else subjects.SAMPLE.name) / 'coco'
  if not folder.exists():
    split = {'num_train': int(count) - int(count) // 4, 'num_val': int(count) // 4} if count else {}
    comparison.command('tools.make_sample_data', output_dir=folder, **split)
  return folder


def _prepare(args: argparse.Namespace) -> None:
  """Checks that kept results were made alike, and converts the data sets."""
  kept = args.output_dir / 'settings.json'
  if kept.is_file() and json.loads(kept.read_text(encoding='utf-8')) != _settings(args):
    raise command_line.CommandError(
        f'--output_dir={args.output_dir} has results of other settings ({kept}): give a new '
        'folder, or the --train_steps, --image_size and --resamples of then.')
  _write(kept, _settings(args))
  for data in args.data:
    folder, what = args.output_dir / data.name, f'--data={data.name}={data.source}'
    data_lib.keep_source(folder, data.source, what)
    if (folder / 'val').exists():
      command_line.say(f'{what}: taken as it was when {folder} was made')
    else:
      source = _composed(data) if subjects.is_composed(data.source) else data.source
      comparison.command('tools.convert_dataset', input=source, output_dir=folder / 'records')
      comparison.command('tools.check_dataset', data=folder / 'records',
                         output=folder / 'data.png')
      # Before `val` is there, which the next run would take as it is.
      data_lib.check_objects(folder / 'records' / 'annotations' / 'val.json', what)
      comparison.command('tools.write_images', data=folder / 'records', output_dir=folder / 'val')


def _finished(args: argparse.Namespace) -> Iterator[Training]:
  """Yields the finished trainings of the plan, of earlier runs too."""
  for data in args.data:
    for name in plans.PLANS[args.plan].subjects:
      for number in itertools.count(1):
        training = Training(data, name, number)
        folder = training.folder(args.output_dir)
        if not (folder / _RESULT).is_file():
          break
        if (folder / _OPTIONS).read_text(encoding='utf-8') == _options_text(training, args):
          yield training


def _results(args: argparse.Namespace) -> dict[str, dict[str, list[list[dict[str, Any]]]]]:
  """Returns data set -> subject -> points of every finished training."""
  found: dict[str, dict[str, list[list[dict[str, Any]]]]] = {data.name: {} for data in args.data}
  for training in _finished(args):
    path = training.folder(args.output_dir) / _RESULT
    found[training.data.name].setdefault(training.name, []).append(
        json.loads(path.read_text(encoding='utf-8')))
  return found


def _times(args: argparse.Namespace) -> page.Times:
  """Times the first finished training of every network, on each data set."""
  folders: dict[str, dict[str, pathlib.Path]] = {data.name: {} for data in args.data}
  for training in _finished(args):
    folders[training.data.name].setdefault(training.name, training.folder(args.output_dir))
  known = plans.PLANS[args.plan].subjects
  return {data: measuring.times(own, known, args.output_dir / data / 'val')
          for data, own in folders.items()}


def main(arguments: Sequence[str] | None = None) -> None:
  """Runs what is not finished, and writes the page after every training."""
  args = _arguments(arguments)
  plan = plans.PLANS[args.plan]
  _prepare(args)
  for training in _trainings(args):
    _write_options(training, args)
  waiting = [training for training in _trainings(args)
             if not (training.folder(args.output_dir) / _RESULT).is_file()]
  start = time.monotonic()
  for number, training in enumerate(waiting, 1):
    command_line.say(f'[{number}/{len(waiting)}] {training.name} on {training.data.name}, training '
                     f'{training.number}')
    _train(training, plan.subjects[training.name], args)
    left = (time.monotonic() - start) / number * (len(waiting) - number)
    command_line.say(f'about {command_line.duration(left)} left')
    page.write(args.output_dir, args.plan, plan, _results(args), {}, vars(args))
  page.write(args.output_dir, args.plan, plan, _results(args), _times(args), vars(args))
  command_line.say(f'Wrote {args.output_dir}/{args.plan}.md')


if __name__ == '__main__':
  command_line.run(main)

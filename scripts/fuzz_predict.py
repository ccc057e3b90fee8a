r"""Predicts on random image files with detectors of three kinds: nothing may be lost.

    .venv/bin/python scripts/fuzz_predict.py --number 2000
    .venv/bin/python scripts/fuzz_predict.py --number 100 --seed 17  # the same files again

Files are tried in rounds of a hundred, round k from the seed + k; the rounds take the kinds of
detectors in turn.  A round that has a problem stays in --failures with problems.txt; the exit
status is then 1.  It is also 1 if the memory of the process grows from round to round.
"""
import argparse
import pathlib
import random
import resource
import shutil
import sys
import traceback

_ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(_ROOT / 'tests'))

import official_ext  # noqa: E402, F401 (chooses Keras 2)
from official_ext.utils import argument_types  # noqa: E402
from official_ext.utils import command_line  # noqa: E402

_ROUND = 100
_WARM_UP = 6  # rounds until each kind has run twice and TensorFlow holds what it keeps
_MAX_GROWTH = 100  # MiB after the warm-up


def _arguments() -> argparse.Namespace:
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
      allow_abbrev=False)
  parser.add_argument('--number', type=argument_types.positive_int, default=2000, metavar='N',
                      help='how many image files (2000)')
  parser.add_argument('--seed', type=argument_types.whole_number, default=0, metavar='S',
                      help='of the first round (0)')
  parser.add_argument('--failures', type=pathlib.Path, default=pathlib.Path('runs/fuzz_predict'),
                      metavar='DIR', help='folder for what fails (runs/fuzz_predict)')
  return parser.parse_args()


def _problems(seed: int, number: int, folder: pathlib.Path) -> list[str]:
  """Makes and predicts the files of one round; returns the problems."""
  import predict_fuzz  # imported here because it loads TensorFlow
  choices = random.Random(seed)
  kind = predict_fuzz.KINDS[seed % len(predict_fuzz.KINDS)]
  images = folder / 'images'
  try:
    saved_model = predict_fuzz.save(kind, folder)
    written = predict_fuzz.write_images(choices, number, images)
    return predict_fuzz.problems_of(written, images, saved_model, folder / 'predictions',
                                    choices.choice((1, 2, 8)), choices.random() < 0.5)
  except Exception:  # whatever the command raises is what is looked for
    return [traceback.format_exc()]


def _resident_mebibytes() -> float:
  """Returns the memory that the process holds now."""
  pages = int(pathlib.Path('/proc/self/statm').read_text(encoding='utf-8').split()[1])
  return pages * resource.getpagesize() / 2**20


def main() -> None:
  """Tries all files and prints what failed."""
  args = _arguments()
  sizes = [min(_ROUND, args.number - start) for start in range(0, args.number, _ROUND)]
  memory, failed = [], 0
  for index, size in enumerate(command_line.progress(sizes, 'rounds', len(sizes))):
    folder = args.failures / f'seed-{args.seed + index}'
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    problems = _problems(args.seed + index, size, folder)
    memory.append(_resident_mebibytes())
    if not problems:
      shutil.rmtree(folder)
      continue
    failed += 1
    (folder / 'problems.txt').write_text('\n'.join(problems), encoding='utf-8')
    command_line.say(f'seed {args.seed + index}: {problems[0].strip().splitlines()[-1][:200]}')
  growth = memory[-1] - memory[_WARM_UP - 1] if len(memory) > _WARM_UP else 0.0
  command_line.say(f'{failed} of {len(sizes)} rounds have a problem; memory {memory[-1]:.0f} MiB, '
                   f'{growth:+.0f} MiB since round {min(_WARM_UP, len(memory))}')
  if failed or growth > _MAX_GROWTH:
    sys.exit(1)


if __name__ == '__main__':
  command_line.run(main)

r"""Times convert_dataset against Model Garden's create_coco_tf_record on the same COCO data.

    .venv/bin/python benchmarks/conversion.py --data=FOLDER

FOLDER is in COCO layout: annotations/instances_{train,val}.json and images/.  It is enlarged by
copies under other names and ids.  Both read and write the same images and boxes in this process
(`one process`), and Model Garden's as it runs by default, on every core (`all cores`).  Times are
medians of interleaved repeats.  The start of the programs, with TensorFlow, is timed for itself: it
is the same for any number of images, and Model Garden's program starts once for each split.
"""
import argparse
from collections.abc import Callable
import contextlib
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
from unittest import mock

import official_ext  # noqa: F401 (chooses Keras 2)
from absl import flags
import numpy as np
from official.vision.data import create_coco_tf_record

from official_ext.tools import convert_dataset
from official_ext.utils import command_line
from official_ext.utils import timing

_SPLITS = ('train', 'val')
_SHARDS = 4
_IMPORTS = {'ours': 'from official_ext.datasets import conversion, readers',
            'one process': 'from official.vision.data import create_coco_tf_record'}


def enlarge(source: pathlib.Path, copies: int, target: pathlib.Path) -> int:
  """Writes copies of a data set in COCO layout as one data set.

  Args:
    source: the data set.
    copies: how many times each image is there.
    target: folder to write into.

  Returns:
    The number of images.
  """
  (target / 'annotations').mkdir(parents=True)
  (target / 'images').mkdir()
  total = 0
  for split in _SPLITS:
    name = f'annotations/instances_{split}.json'
    content = json.loads((source / name).read_text(encoding='utf-8'))
    offset = 1 + max(image['id'] for image in content['images'])
    images, annotations = [], []
    for copy in range(copies):
      for image in content['images']:
        file_name = f'{split}_{copy}_{image["file_name"]}'
        shutil.copy(source / 'images' / image['file_name'], target / 'images' / file_name)
        images.append(dict(image, id=image['id'] + copy * offset, file_name=file_name))
      for item in content['annotations']:
        annotations.append(dict(item, id=len(annotations) + 1,
                                image_id=item['image_id'] + copy * offset))
    (target / name).write_text(json.dumps(dict(content, images=images, annotations=annotations)))
    total += len(images)
  return total


def ours(data: pathlib.Path, output: pathlib.Path, include_masks: bool) -> Callable[[], None]:
  """Returns a call that converts a data set by our command."""
  arguments = ['convert_dataset', f'--input={data}', f'--output_dir={output}',
               f'--num_shards={_SHARDS}', *(['--include_masks'] if include_masks else [])]

  def run():
    with (mock.patch.object(sys, 'argv', arguments), contextlib.redirect_stdout(io.StringIO()),
          contextlib.redirect_stderr(io.StringIO())):
      convert_dataset.main()

  return run


def model_gardens(data: pathlib.Path, output: pathlib.Path, include_masks: bool,
                  num_processes: int | None) -> Callable[[], None]:
  """Returns a call that converts a data set by Model Garden's script.

  Args:
    data: in COCO layout.
    output: folder to write into.
    include_masks: whether to write masks.
    num_processes: as its flag: 0 for this process only, None for one on every core.
  """
  output.mkdir()

  def run():
    flags.FLAGS.num_processes = num_processes
    for split in _SPLITS:
      annotations = str(data / f'annotations/instances_{split}.json')
      create_coco_tf_record._create_tf_record_from_coco_annotations(
          annotations, [str(data / 'images')], str(output / split), _SHARDS, annotations,
          include_masks=include_masks)

  return run


def benchmark_start(repeats: int) -> None:
  """Times what the programs import, in new processes, and prints medians and their ratio."""

  def started(imports: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, '-c', f'import official_ext; {imports}'],
                                  check=True, capture_output=True)

  seconds = timing.interleaved({name: started(text) for name, text in _IMPORTS.items()}, repeats)
  for name, times in seconds.items():
    command_line.say(f'start, {name}: {np.median(times):.2f} s')
  command_line.say(
      f"  ours takes {timing.median_ratio(seconds, *_IMPORTS):.3f} of the time of Model Garden's")


def benchmark(data: pathlib.Path, copies: int, repeats: int, include_masks: bool) -> None:
  """Times all ways on copies of a data set and prints medians and ratios."""
  with tempfile.TemporaryDirectory() as place:
    folder = pathlib.Path(place)
    total = enlarge(data, copies, folder / 'data')
    source = folder / 'data'
    seconds = timing.interleaved({
        'ours': ours(source, folder / 'ours', include_masks),
        'one process': model_gardens(source, folder / 'one', include_masks, 0),
        'all cores': model_gardens(source, folder / 'all', include_masks, None)}, repeats)
  command_line.say(f'{total} images{", with masks" if include_masks else ""}')
  for name, times in seconds.items():
    command_line.say(f'  {name}: {1000 * np.median(times) / total:.2f} ms per image')
  for name in ('one process', 'all cores'):
    ratio = timing.median_ratio(seconds, 'ours', name)
    command_line.say(f"  ours takes {ratio:.3f} of the time of Model Garden's, {name}")


def main() -> None:
  """Times the start of the programs, and conversions with and without masks."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  parser.add_argument('--data', required=True, type=pathlib.Path, metavar='FOLDER',
                      help='data set in COCO layout')
  parser.add_argument('--copies', type=int, default=10, help='of every image (10)')
  parser.add_argument('--repeats', type=int, default=9, help='interleaved repeats (9)')
  args = parser.parse_args()
  flags.FLAGS(sys.argv[:1])
  benchmark_start(min(args.repeats, 3))
  for include_masks in (False, True):
    benchmark(args.data, args.copies, args.repeats, include_masks)


if __name__ == '__main__':
  command_line.run(main)

"""Compares the detections of all versions of suppression on images, for a trained detector.

    .venv/bin/python scripts/compare_suppression.py --experiment=NAME --checkpoint_path=runs/fpn \
      --config_file=runs/fpn/params.yaml --data=FOLDER

`batched` is what exports have; `portable` and `finish`, NumPy after an export with `--nms=none`,
must have the same detections: of the same class, with an overlap of at least 0.99 and a score
within 1e-4.  `v2` is Model Garden's default; it also detects boxes without area on the edge of the
image, which take the places of others.  Prints, for each, how many detections have no partner on
how many images, and how many have no area.
"""
import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import official_ext  # noqa: F401 (chooses Keras 2)
import numpy as np

from official_ext import registry_imports
from official_ext.serving import data_images
from official_ext.serving import detectors
from official_ext.serving import export_modules
from official_ext.serving import suppression
from official_ext.utils import command_line
from official_ext.utils import experiment

_VERSIONS = ('batched', 'portable', 'finish', 'v2')
_OVERLAP, _SCORE = 0.99, 1e-4


def build(args: argparse.Namespace, version: str) -> detectors.InMemoryDetector:
  """Restores the detector with a version of suppression."""
  overrides = [args.params_override] if args.params_override else []
  if version == 'v2':
    overrides.append('task.model.detection_generator.nms_version=v2')
  params = experiment.resolve(args.experiment, args.config_file, ','.join(overrides), lock=False)
  nms = {'finish': 'none', 'v2': None}.get(version, version)
  return detectors.InMemoryDetector(
      export_modules.build_module(params, args.checkpoint_path, outputs='detections', nms=nms))


def detect(detector: detectors.InMemoryDetector, image: np.ndarray) -> Mapping[str, np.ndarray]:
  """Returns the detections of one image, without padding."""
  outputs: Mapping[str, Any] = detector(image[None])
  rule = detector.description.get('suppression')
  if 'detection_boxes' not in outputs:
    outputs = suppression.finish(outputs, rule)
  count = int(outputs['num_detections'][0])
  return {name: np.asarray(outputs[f'detection_{name}'][0][:count])
          for name in ('boxes', 'scores', 'classes')}


def without_partner(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> int:
  """Returns the number of detections in one of the two that the other does not have."""
  free = np.ones(len(second['scores']), bool)
  alone = 0
  for box, score, label in zip(first['boxes'], first['scores'], first['classes']):
    fits = free & (second['classes'] == label) & (abs(second['scores'] - score) <= _SCORE)
    fits &= suppression.overlaps(box, second['boxes']) >= _OVERLAP
    if fits.any():
      free[np.flatnonzero(fits)[0]] = False
    else:
      alone += 1
  return alone + int(free.sum())


def _images(data: str) -> Iterator[np.ndarray]:
  images, total = data_images.decoded(data, (0, 0))
  yield from command_line.progress(images, 'detecting', total)


def main(arguments: Sequence[str] | None = None) -> None:
  """Compares and prints."""
  parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)
  experiment.add_arguments(parser)
  parser.add_argument('--checkpoint_path', required=True, metavar='PATH',
                      help='a checkpoint, or the --model_dir of a training')
  parser.add_argument('--data', required=True, metavar='PATTERN',
                      help='images or TFRecords: a folder or a glob')
  parser.add_argument('--versions', nargs='+', choices=_VERSIONS[1:], default=_VERSIONS[1:],
                      help='all but v2 of FCOS and ATSS, which do not have it')
  args = parser.parse_args(arguments)
  experiment.import_modules(args.imports)
  base = build(args, _VERSIONS[0])
  others = {version: build(args, version) for version in args.versions}
  alone: dict[str, list[int]] = {version: [] for version in others}
  flat = dict.fromkeys(others, 0)
  total = 0
  for image in _images(args.data):
    expected = detect(base, image)
    total += len(expected['scores'])
    for version, detector in others.items():
      found = detect(detector, image)
      alone[version].append(without_partner(expected, found))
      flat[version] += np.count_nonzero(
          np.any(found['boxes'][:, 2:] <= found['boxes'][:, :2], axis=1))
  for version, counts in alone.items():
    command_line.say(f'{version}: {sum(counts)} detections without a partner on '
                     f'{np.count_nonzero(counts)} of {len(counts)} images, {flat[version]} without '
                     f'area; batched has {total}')


if __name__ == '__main__':
  command_line.run(main)

"""Looks at a whole conversion for what a person would see at a glance, and tells it.

A `SplitTally` counts while a split is converted; `tell` judges the counts at the end. A finding is
a problem if the records are unfit for training, and otherwise a doubt.
"""
import collections
from collections.abc import Mapping, Sequence
import dataclasses
import math
from typing import Any

from official_ext.datasets import annotations as annotations_lib
from official_ext.datasets import box_forms
from official_ext.datasets import categories as categories_lib
from official_ext.datasets import findings as findings_lib
from official_ext.datasets.records import example_checks

_FEW = 0.05  # share of boxes or images of which the loss is told
# Boxes that are read in every way they may be meant: the first, and every so many of the others.
_FIRST, _EVERY = 250, 16
_MANY = 0.1  # share of boxes outside of their image that is no carelessness at its edges
_LOG_CHANCE = math.log(1e-6)  # of what is too unlikely to be chance

_NORMALIZED = ('boxes are in parts of the image (0 to 1), not in pixels: multiply x and width by '
               'the width of the image, y and height by its height')
_UNSCALED = ('boxes were scaled to the size of their files, but fit the files as they are: if they '
             'are right so, take width and height out of the annotations')


@dataclasses.dataclass(frozen=True)
class Permissions:
  """The problems that become doubts, because a person has looked at them and allows them.

  Attributes:
    losses: a class or a split may lose all its boxes.
    box_forms: boxes may look as if they had another form.
  """
  losses: bool = False
  box_forms: bool = False


class SplitTally:
  """Counts what happens to the images and boxes of a split.

  Attributes:
    split: as it was read.
    found: category id in the records, None if unknown -> number of annotations.
    kept: category id in the records -> number of boxes in the records.
    num_images: number of images in the records.
    num_crowds: number of boxes in the records that stand for a crowd.
    num_clipped: number of boxes that reached more than a pixel over the edge of their image.
    digests: SHA-256 of an image -> its file name.
    twins: (file name, file name) of equal images.
    long_images: (file name, size) of images with extreme sides.
    repeated: (file name, number) of images that have boxes several times, with the same class.
  """

  def __init__(self, split: annotations_lib.Split, categories: categories_lib.Categories):
    """Initializes the tally.

    Args:
      split: as it was read.
      categories: of all splits.
    """
    self.split = split
    self.found: collections.Counter[int | None] = collections.Counter(
        categories.record_id(entry.get('category_id'), split.name)
        for entry in split.annotations)
    self.kept: collections.Counter[int] = collections.Counter()
    self.num_images = self.num_crowds = self.num_clipped = self._num_boxes = 0
    self.digests: dict[str, str] = {}
    self.twins: list[tuple[str, str]] = []
    self.long_images: list[tuple[str, str]] = []
    self.repeated: list[tuple[str, str]] = []
    self._forms = box_forms.BoxForms()
    self._num_normalized = 0
    # Counts of the boxes that were scaled: all; those that fit the file unscaled; those that do
    # not fit the size in the annotations.  Then the logarithm of the chance that all boxes would
    # fit the smaller file unscaled if they were right.
    self._num_scaled = self._num_fitting = self._num_outside = 0
    self._log_chance = 0.0

  @property
  def wants_form(self) -> bool:
    """Whether the form of the next box is looked at; it saves time that a sample tells it."""
    return self._num_boxes < _FIRST or self._num_boxes % _EVERY == 0

  def add_box(self, box: Sequence[float], size: tuple[int, int], factor: float,
              area: float | None, polygon_box: Sequence[float] | None) -> None:
    """Counts the four numbers of an annotation, whether its box is kept or not.

    Args:
      box: `[x, y, width, height]` as the annotations give it.
      size: (width, height) of the file in pixels.
      factor: from coordinates of the annotations to those of the file.
      area: as the annotations give it; None if they give none.
      polygon_box: the box around the polygon in the file; None if there is none.
    """
    listed_size = (size[0] / factor, size[1] / factor)
    wants_form = self.wants_form
    self._num_boxes += 1
    if box_forms.is_normalized(box, *size):
      self._num_normalized += 1
      return
    if polygon_box is not None:
      polygon_box = [value / factor for value in polygon_box]
    if wants_form:
      self._forms.add(box, listed_size, area, polygon_box)
    if factor != 1.0:
      x, y, width, height = box
      fits_file = x + width <= size[0] + 1 and y + height <= size[1] + 1
      fits_listed = x + width <= listed_size[0] + 1 and y + height <= listed_size[1] + 1
      self._num_scaled += 1
      self._num_fitting += fits_file
      self._num_outside += not fits_listed
      # A box somewhere in the larger image lies in its first part about so often.
      self._log_chance += 2 * math.log(min(factor, 1))

  def add_image(self, name: str, size: tuple[int, int], digest: str,
                annotations: Sequence[annotations_lib.Entry]) -> None:
    """Counts an image that is written.

    Args:
      name: of its file.
      size: (width, height) in pixels.
      digest: SHA-256 of the image.
      annotations: that are written with it.
    """
    self.num_images += 1
    self.kept.update(entry['category_id'] for entry in annotations)
    self.num_crowds += sum(entry['iscrowd'] for entry in annotations)
    if digest in self.digests:
      self.twins.append((name, self.digests[digest]))
    self.digests.setdefault(digest, name)
    objects = {(entry['category_id'], entry['iscrowd'], *entry['bbox']) for entry in annotations}
    if len(objects) < len(annotations):
      self.repeated.append((name, f'{len(annotations) - len(objects)} of {len(annotations)} boxes'))
    if example_checks.is_long(size):
      self.long_images.append((name, f'{size[0]} x {size[1]}'))

  def form_problems(self) -> list[tuple[str, str]]:
    """Returns reason and evidence of what says that boxes have another form than expected."""
    num_boxes = sum(self.found.values())
    problems = []
    if self._num_normalized * 2 > num_boxes:
      problems.append((_NORMALIZED, f'{self._num_normalized} of {num_boxes} boxes'))
    better = self._forms.better_reading()
    if better:
      problems.append((f'boxes look like {better[0]}, not like [x, y, width, height]', better[1]))
    is_unlikely = (self._log_chance < _LOG_CHANCE or
                   self._num_outside > max(1, _MANY * self._num_scaled))
    if self._num_fitting == self._num_scaled and is_unlikely:
      problems.append((_UNSCALED, f'all {self._num_scaled} boxes of resized images'))
    return problems


def tell(tallies: Mapping[str, SplitTally], categories: categories_lib.Categories,
         findings: findings_lib.Findings, allowed: Permissions = Permissions()) -> None:
  """Tells what is doubtful in the splits of a conversion.

  Args:
    tallies: of the splits by name, after their conversion.
    categories: of all splits.
    findings: told the doubts and the problems.
    allowed: what is a doubt only, because a person has looked at it.
  """
  for name, tally in tallies.items():
    for reason, detail in tally.form_problems():
      findings.add(name, 'doubt' if allowed.box_forms else 'problem', reason, tally.split.source,
                   detail)
    _tell_losses(name, tally, categories, findings, 'doubt' if allowed.losses else 'problem')
    _tell_shares(name, tally, findings)
    for file, other in tally.twins:
      findings.add(name, 'doubt', 'picture is there twice, under two names', file, f'= {other}')
    for file, number in tally.repeated:
      findings.add(name, 'doubt', 'box is there several times with one class: listed twice?', file,
                   number)
    for file, size in tally.long_images:
      findings.add(name, 'doubt', example_checks.LONG_IMAGE, file, size)
  _tell_overlap(tallies, findings)
  _tell_names(tallies, categories, findings)


def _tell_losses(name: str, tally: SplitTally, categories: categories_lib.Categories,
                 findings: findings_lib.Findings, outcome: findings_lib.Outcome) -> None:
  """Tells a split or a class that has boxes in the data set and none in the records."""
  source, num_found = tally.split.source, sum(tally.found.values())
  num_kept = sum(tally.kept.values())
  if tally.num_crowds * 2 > num_kept:
    findings.add(name, 'doubt', 'most boxes are crowds, of which a detector learns nothing: look '
                 'at iscrowd', source, f'{tally.num_crowds} of {num_kept}')
  if not num_found:
    findings.add(name, 'doubt', 'split has no boxes at all', source)
  elif not tally.kept:
    findings.add(name, outcome, 'split lost all its boxes: the reasons are those of what is '
                 'dropped', source, f'{num_found} boxes')
  else:
    for number, found in tally.found.items():
      if number is not None and not tally.kept[number]:
        findings.add(name, outcome, 'class lost all its boxes: the reasons are those of what is '
                     'dropped', source, f'{categories.names[number]!r}, {found} boxes')


def _tell_shares(name: str, tally: SplitTally, findings: findings_lib.Findings) -> None:
  """Tells how much is lost or changed if it is more than a little, but not all."""
  num_boxes, num_kept = sum(tally.found.values()), sum(tally.kept.values())
  num_listed = len(tally.split.images)
  for count, total, what in (
      (num_boxes - num_kept, num_boxes, 'boxes are not in the records'),
      (num_listed - tally.num_images, num_listed, 'images are not in the records'),
      (tally.num_clipped, num_boxes, 'boxes reached over the edge of their image: are they for '
       'other sizes?')):
    if _FEW * total < count < total:
      findings.add(name, 'doubt', f'more than {_FEW:.0%} of the {what}', tally.split.source,
                   f'{count} of {total}')


def _tell_overlap(tallies: Mapping[str, SplitTally], findings: findings_lib.Findings) -> None:
  """Tells images that are in two splits, byte for byte."""
  names = list(tallies)
  for position, name in enumerate(names):
    for other in names[position + 1:]:
      first, second = tallies[name].digests, tallies[other].digests
      for digest in second:
        if digest in first:
          findings.add(other, 'doubt', f'picture is in {name} as well: accuracy will seem too '
                       'high', second[digest], f'= {first[digest]}')


def _tell_names(tallies: Mapping[str, SplitTally], categories: categories_lib.Categories,
                findings: findings_lib.Findings) -> None:
  """Tells names of classes and files that are odd, and classes that cannot be learned."""
  by_name = collections.defaultdict(list)
  for number, name in categories.names.items():
    by_name[name.casefold()].append(number)
  for numbers in by_name.values():
    if len(numbers) > 1:
      findings.add('all', 'doubt', 'one name stands for several classes: give them one id',
                   repr(categories.names[numbers[0]]), f'ids {numbers}')
  for split, tally in tallies.items():
    for category in tally.split.categories:
      if not str(category.get('name')).isprintable():
        findings.add(split, 'doubt', 'class name holds line breaks or control characters: written '
                     'as blanks', tally.split.source, repr(category['name']))
    for image in tally.split.images:
      file_name: Any = image.get('file_name')
      if isinstance(file_name, str) and not file_name.isprintable():
        findings.add(split, 'doubt', 'file name holds line breaks or control characters',
                     repr(file_name))
  if 'train' in tallies and tallies['train'].kept:
    for split, tally in tallies.items():
      for number in sorted(set(tally.kept) - set(tallies['train'].kept)):
        findings.add(split, 'doubt', 'class has no box in train: it cannot be learned',
                     tally.split.source, repr(categories.names[number]))

"""Overlaps name both records; classes that train lacks are told. Commands test other checks."""
import numpy as np

from official_ext.datasets import findings as findings_lib
from official_ext.datasets.records import record_checks


def test_equal_images_of_two_splits_are_found():
  findings = findings_lib.Findings()
  checks = [record_checks.SplitCheck(record_checks.Source(name, []), findings, 0)
            for name in ('train', 'val')]
  checks[0].digests.update(x='train record 1', y='train record 2')
  checks[1].digests.update(y='val record 7', z='val record 8')
  record_checks.check_overlap(checks, findings)
  item, = findings.to_json()
  assert (item['split'], item['reason']) == (
      'val', 'image is in train as well: accuracy will seem too high')
  assert item['items'] == [dict(file='val record 7', detail='= train record 2')]


def test_classes_that_train_lacks_are_told():
  findings = findings_lib.Findings()
  checks = [record_checks.SplitCheck(record_checks.Source(name, [], class_names={7: 'dog'}),
                                     findings, 0) for name in ('train', 'val')]
  for check, classes in zip(checks, ([1], [1, 7])):
    check.statistics.add(dict(
        source_id=b'1', width=40, height=30, groundtruth_boxes=np.tile([0, 0, 1, 1], (2, 1)),
        groundtruth_classes=np.array(classes), groundtruth_is_crowd=np.zeros(2),
        groundtruth_instance_masks_png=[]))
  record_checks.check_classes(checks, findings)
  item, = findings.to_json()
  assert (item['split'], item['outcome'], item['items'][0]['detail']) == ('val', 'doubt', "'dog'")

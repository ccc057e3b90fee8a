"""The sample of records is fair; overlaps name both records. Commands test all other checks."""
import collections

from official_ext.datasets import findings as findings_lib
from official_ext.datasets import record_checks


def test_a_sample_keeps_all_items_or_as_many_as_it_may():
  sample = record_checks.RandomSample(3)
  for item in range(2):
    sample.offer(item)
  assert sample.items == [0, 1]
  for item in range(2, 50):
    sample.offer(item)
  assert len(set(sample.items)) == 3
  empty = record_checks.RandomSample(0)
  empty.offer(1)
  assert empty.items == []


def test_items_are_kept_with_about_the_same_chance():
  # Samples have equal seeds, so the items are shifted to draw independent ones.
  kept = collections.Counter()
  for shift in range(100):
    sample = record_checks.RandomSample(20)
    for item in range(100):
      sample.offer((item + shift) % 100)
    kept.update(sample.items)
  assert len(kept) == 100 and set(kept.values()) == {20}


def test_equal_images_of_two_splits_are_found():
  findings = findings_lib.Findings()
  checks = [record_checks.SplitCheck(record_checks.Source(name, []), findings, 0)
            for name in ('train', 'val')]
  checks[0].digests.update(x='train record 1', y='train record 2')
  checks[1].digests.update(y='val record 7', z='val record 8')
  record_checks.check_overlap(checks, findings)
  item, = findings.to_json()
  assert (item['split'], item['reason']) == ('val', 'image is in train as well')
  assert item['items'] == [dict(file='val record 7', detail='= train record 2')]

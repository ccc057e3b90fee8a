"""A sample is fair, whatever the number of items."""
import collections

from official_ext.datasets.records import random_sample


def test_a_sample_keeps_all_items_or_as_many_as_it_may():
  sample = random_sample.RandomSample(3)
  for item in range(2):
    sample.offer(item)
  assert sample.items == [0, 1]
  for item in range(2, 50):
    sample.offer(item)
  assert len(set(sample.items)) == 3
  empty = random_sample.RandomSample(0)
  empty.offer(1)
  assert empty.items == []


def test_items_are_kept_with_about_the_same_chance():
  # Samples have equal seeds, so the items are shifted to draw independent ones.
  kept = collections.Counter()
  for shift in range(100):
    sample = random_sample.RandomSample(20)
    for item in range(100):
      sample.offer((item + shift) % 100)
    kept.update(sample.items)
  assert len(kept) == 100 and set(kept.values()) == {20}

"""Readers of published data set layouts, one file for each layout."""
from official_ext.datasets.readers.coco import load_annotations
from official_ext.datasets.readers.layouts import Choice
from official_ext.datasets.readers.layouts import choose
from official_ext.datasets.readers.layouts import LAYOUTS
from official_ext.datasets.readers.layouts import read

__all__ = ['LAYOUTS', 'Choice', 'choose', 'load_annotations', 'read']

"""Readers of published data set layouts, one file for each layout."""
from official_ext.datasets.readers.coco import load_annotations
from official_ext.datasets.readers.layouts import detect_format
from official_ext.datasets.readers.layouts import LAYOUTS
from official_ext.datasets.readers.layouts import read

__all__ = ['LAYOUTS', 'detect_format', 'load_annotations', 'read']

"""Builds the package `official_ext`, in which the weights of `data/` are `official_ext/data/`."""
import pathlib
import re

import setuptools

FOLDER = pathlib.Path(__file__).resolve().parent
VERSION = re.search(
    r"^__version__ = '([^']+)'$", (FOLDER / 'official_ext/__init__.py').read_text(),
    re.MULTILINE).group(1)
README = FOLDER / 'README.md'

setuptools.setup(
    name='official_ext',
    version=VERSION,
    description='Dynamic necks, heads and detectors for TensorFlow Model Garden.',
    long_description=README.read_text() if README.exists() else '',
    long_description_content_type='text/markdown',
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Development Status :: 3 - Alpha',
        'Intended Audience :: Science/Research',
        'Programming Language :: Python :: 3.11',
        'Programming Language :: Python :: 3.12',
        'Topic :: Scientific/Engineering :: Image Recognition',
    ],
    packages=[*setuptools.find_packages(include=['official_ext', 'official_ext.*']),
              'official_ext.data'],
    package_dir={'official_ext.data': 'data'},
    package_data={'official_ext': ['py.typed'],
                  'official_ext.data': [
                      'efficientnet_lite0_imagenet/*', 'demo/*', 'demo/images/*']},
    python_requires='>=3.11,<3.13',
    install_requires=[
        'absl-py',
        'defusedxml',
        'h5py',
        'keras-cv==0.9.*',
        'matplotlib',
        # 2.4 made int() of a one-element array an error, which COCO evaluation relies on.
        'numpy>=1.26,<2.4',
        # Earlier ones choose the filters of PNG files themselves.
        'opencv-python-headless>=4.11',
        # 13 no longer encodes the masks of Model Garden's image_utils.
        'pillow<13',
        'pycocotools',
        'pyyaml',
        'scikit-image',
        'scikit-learn',
        # tensorflow_hub imports pkg_resources, which left setuptools with 82.
        'setuptools>=70.1,<81',
        'tf-keras~=2.20',
        'tf-models-official~=2.20.0',
    ],
    extras_require={
        'dev': ['hypothesis', 'ipykernel', 'mypy>=2.4,<3', 'nbclient', 'pytest', 'pytest-xdist',
                'ruff>=0.9', 'types-PyYAML'],
        # The reference of all modules, scripts/build_docs.sh.
        'docs': ['pdoc==16.*'],
        # Engines that run converted exports.
        'litert': ['ai-edge-litert==2.3.*'],
        'onnx': ['onnx==1.23.*', 'onnxruntime==1.32.*', 'tf2onnx==1.17.*'],
        'openvino': ['openvino==2026.4.*'],
    },
)

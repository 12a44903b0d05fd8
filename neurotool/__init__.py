"""From a BERT teacher to a spiking student on neuromorphic hardware: distil, export, run, account for energy."""

from importlib.metadata import version

__version__ = version("neurotool")

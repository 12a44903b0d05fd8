"""Spiking language models in torch: their neurons, schedules and equilibrium."""

from neurotool.student.configuration import SpikingBertConfig
from neurotool.student.neurons import NeuronDynamics
from neurotool.student.spikingbert import SpikingBertForSequenceClassification, SpikingBertOutput

__all__ = ["NeuronDynamics", "SpikingBertConfig", "SpikingBertForSequenceClassification", "SpikingBertOutput"]

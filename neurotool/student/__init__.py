"""Spiking language models in torch: their neurons, schedules and equilibrium."""

from neurotool.student.ann import AnnForSequenceClassification
from neurotool.student.configuration import (
    AnnConfig,
    SpikeBertConfig,
    SpikingBertConfig,
    StreamingConfig,
    TextCnnConfig,
)
from neurotool.student.neurons import NeuronDynamics
from neurotool.student.spikebert import SpikeBertForSequenceClassification
from neurotool.student.spikingbert import SpikingBertForSequenceClassification
from neurotool.student.streaming import StreamingForSequenceClassification
from neurotool.student.student import Student, StudentOutput
from neurotool.student.textcnn import TextCnnForSequenceClassification

STUDENTS: dict[str, type[Student]] = {
    student.config_class.model_type: student
    for student in (
        SpikingBertForSequenceClassification,
        SpikeBertForSequenceClassification,
        TextCnnForSequenceClassification,
        StreamingForSequenceClassification,
        AnnForSequenceClassification,
    )
}
"""Every kind of student by the `model_type` of its configuration."""

__all__ = [
    "STUDENTS",
    "AnnConfig",
    "AnnForSequenceClassification",
    "NeuronDynamics",
    "SpikeBertConfig",
    "SpikeBertForSequenceClassification",
    "SpikingBertConfig",
    "SpikingBertForSequenceClassification",
    "StreamingConfig",
    "StreamingForSequenceClassification",
    "Student",
    "StudentOutput",
    "TextCnnConfig",
    "TextCnnForSequenceClassification",
]

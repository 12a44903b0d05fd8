"""Distillation of a BERT teacher into a spiking student."""

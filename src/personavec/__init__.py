"""Persona vectors: extract, evaluate, monitor and steer the character of open chat models."""

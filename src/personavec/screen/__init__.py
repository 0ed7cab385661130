"""Screening training data: how far a data set would push the model along each trait, and which samples do it."""

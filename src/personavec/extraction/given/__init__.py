"""Vectors from texts that somebody wrote, for traits that a model reads but cannot be told to show."""

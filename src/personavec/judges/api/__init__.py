"""Judges behind OpenAI-compatible endpoints: what they are asked, what they reply, what goes wrong, what is kept."""

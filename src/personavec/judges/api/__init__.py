"""Judges behind OpenAI-compatible endpoints: how they are asked, what that costs, what is kept."""

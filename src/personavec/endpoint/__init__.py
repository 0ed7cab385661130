"""OpenAI-compatible endpoints: what their replies hold, and what goes wrong, in their own words."""

"""Statistics that several jobs share; every interval is 95 %."""

"""Judges: who scores an answer 0..100 for a trait, and 0..100 for coherence. `kinds` opens them by name."""

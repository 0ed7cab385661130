"""What every page is made of: drawing, words for figures, provenance, and one self-contained HTML file.

The page of a job lives with the job. It opens offline, on a phone, on paper, in light and dark.
"""

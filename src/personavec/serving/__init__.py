"""A chat model behind an OpenAI-compatible server: every request steered in its own way, every answer read.

`engine` runs the model, one step of all responses after the other; `readings` says what it reads on the way; `persona`
turns what a request asks for into interventions; `bodies` and `strict` hold what a request may be, `answers` what it
gets; `exchange` is one request on its way; `guard` stands before all of it; `api` ties them together.
"""

"""A chat model behind an OpenAI-compatible server: every request steered in its own way, every answer read.

`engine` runs the model, one step of all responses after the other; `voice` turns their tokens into text, `calls`
tells calls of tools from it, `readings` says what the model reads on the way. `persona` turns what a request asks for
into interventions. `strict` and `bodies` hold what a request may be, `answers` and `responses` what it gets,
`failures` what it gets instead; `exchange` is one request on its way. `facts` is what is known of the vectors, `page`
what browsers get. `observer` logs answers and raises alarms, `delivery` hands these on. `guard` stands before all of
it, `metrics` counts, `api` ties them together, `server` runs them in a process.
"""

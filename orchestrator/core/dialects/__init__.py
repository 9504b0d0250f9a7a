"""The two APIs callers speak, Ollama's and OpenAI's as Ollama serves it: requests in, answers, frames and errors out.

`parse` and `conversation` read a request, `checks` refuses what a model cannot do, `render` and `errors` write,
`translate` speaks to an engine that knows OpenAI's API only, `outcome` reads how an answer ended. All of it is pure.
"""

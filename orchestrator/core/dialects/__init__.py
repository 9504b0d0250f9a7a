"""The APIs callers speak: Ollama's own, and OpenAI's and Anthropic's as Ollama serves them.

`parse` and `conversation` read a request, `as_chat` gives the younger APIs' the form of Ollama's chat, `checks` refuses
what a model cannot do, `render`, `streams` and `errors` write, `translate` speaks to an engine that knows OpenAI's API
only, `outcome` reads how an answer ended. All of it is pure.
"""

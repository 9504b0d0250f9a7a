"""What engines and providers say of themselves when they fail: words that are theirs, whoever's call it was.

An error may quote the call that it is about, so that no log may have it as it stands. Of a text only what is listed
here is said again: fixed words, and numbers of a few digits.
"""

from __future__ import annotations

import re
from typing import Final

MOST_WORDS: Final = 4
# Ollama's (server/sched.go, server/routes.go, llm/server.go, runner/; v0.33), llama.cpp's (tools/server, ggml-cuda),
# Go's and the kernel's, and what OpenAI and those alike call their errors.
_KNOWN: Final = re.compile(
    r"""(?<![\w])(?:
      llama\ runner\ process\ has\ terminated | llama\ runner\ process\ no\ longer\ running
    | timed\ out\ waiting\ for\ llama\ runner\ to\ start
    | model\ requires\ more\ system\ memory
        (?:\ \([\d.]{1,8}\ [KMGT]iB\)\ than\ is\ available\ \([\d.]{1,8}\ [KMGT]iB\))?
    | model\ (?:failed\ to\ load|runner\ has\ unexpectedly\ stopped)
    | an\ error\ was\ encountered\ while\ running\ the\ model
    | (?:failed|unable)\ to\ (?:load|create|allocate)\ (?:model|context|buffer|memory) | error\ loading\ model
    | cudaMalloc\ failed | CUDA\ error | out\ of\ memory | insufficient\ memory | illegal\ memory\ access
    | server\ busy,\ please\ try\ again | maximum\ pending\ requests\ exceeded | slot\ unavailable | Loading\ model
    | input\ length\ exceeds\ (?:the\ )?(?:maximum\ )?context\ (?:length|size) | exceeds\ the\ available\ context\ size
    | signal:\ (?:killed|aborted|segmentation\ fault) | exit\ status\ -?\d{1,3} | no\ child\ processes
    | unexpected\ EOF | EOF(?!\w) | connection\ (?:refused|reset\ by\ peer) | broken\ pipe | no\ route\ to\ host
    | context\ (?:canceled|deadline\ exceeded) | i/o\ timeout
    | no\ such\ file\ or\ directory | no\ space\ left\ on\ device
    | rate\ limit\ (?:reached|exceeded) | rate_limit_exceeded | insufficient_quota | model_not_found | invalid_api_key
    | overloaded_error | service_unavailable | server_error | internal\ server\ error | service\ unavailable
    )""",
    re.VERBOSE | re.IGNORECASE,
)


def known_words(text: str) -> str:
    """What of `text` is known to be an engine's own, in its order; empty: nothing is."""
    found = dict.fromkeys(each[0].lower() for each in _KNOWN.finditer(text))
    return ", ".join([*found][:MOST_WORDS])

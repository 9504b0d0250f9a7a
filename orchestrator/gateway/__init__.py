"""One call, top to bottom: parse, route, admit, relay, settle."""

"""`ollamactl`: parse and print, nothing else. Exit codes: 0 done, 1 it failed, 2 the command line is wrong,
3 the configuration is wrong, 4 nothing answers, 130 interrupted."""

from orchestrator.cli.main import main

__all__ = ["main"]

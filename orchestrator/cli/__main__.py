"""`python -m orchestrator.cli` is `ollamactl`."""

from orchestrator.cli import main

main(prog_name="ollamactl")

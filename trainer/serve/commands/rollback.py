"""`banyan serve rollback [serve.port=P]`: the running server goes back to the model before the last change."""

from __future__ import annotations

from trainer.serve.commands.arguments import port_of, read_arguments
from trainer.serve.control import tell_server


def main(arguments: list[str]) -> int:
    """Returns once that model answers."""
    print(tell_server(port_of(read_arguments("rollback", ("serve.port",), arguments)), {"do": "rollback"}))
    return 0

"""`orchestrate completion`."""

import click
from click import shell_completion


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and sweeps in a shell.

    Evaluate it in the start file of the shell, or, for fish, put it into its folder of completions.

    \b
    Example:
      orchestrate completion bash
      orchestrate completion zsh
      orchestrate completion fish

    Writes nothing.
    """
    script = shell_completion.get_completion_class(shell)
    assert script
    click.echo(script(context.find_root().command, {}, "orchestrate", "_ORCHESTRATE_COMPLETE").source())

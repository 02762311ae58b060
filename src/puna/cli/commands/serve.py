"""`puna serve`: the server."""

import click

from puna import settings
from puna.cli.models import user_library


@click.command("serve", short_help="Run the server")
@click.option("--host", "listen", metavar="HOST[:PORT]", help="Where to listen.  [default: 127.0.0.1:11434]")
@click.option("--origins", metavar="ORIGIN,…", help="Web pages that may use it, besides this machine's.")
@click.option("--hosts", metavar="NAME,…", help="Other names under which it is asked for.")
@click.option("--api-key-file", metavar="FILE", help="Keys, one a line, with their scopes after a blank.")
@click.option("--insecure-no-keys", is_flag=True, help="Let a network use it without keys.")
@click.option("--tls-cert", metavar="FILE", help="The certificate to show, in PEM.")
@click.option("--tls-key", metavar="FILE", help="The certificate's private key, in PEM.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="How the log is written.")
@click.option("--metrics", is_flag=True, help="Have figures for Prometheus at /metrics.")
@click.option(
    "--shutdown-grace", metavar="TIME", help="What running requests get at the end.  [default: 10s]"
)
def command(**flags: str | bool | None) -> None:
    """Run the server, until it is stopped by Ctrl-C or SIGTERM.

    `puna config` shows all settings. docs/server.md tells what they mean.
    """
    given = {name: str(value) for name, value in flags.items() if value not in (None, False)}
    configured = settings.server_settings(given)
    from puna.server.start import run

    run(configured, user_library(), click.echo)

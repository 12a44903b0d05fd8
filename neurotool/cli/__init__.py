"""The command line: parse, call, print."""

import click

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")

"""Install this checkout, editable, with the extras named: `python install.py dev`. The Makefile calls it.

uv does it in a quarter of pip's time, but reads none of pip's settings: it is told the indexes, certificates and
constraints that pip would use. Where there is a setting that it cannot be told, or uv cannot be had or fails, pip
does it.
"""

import ast
import os
import re
import subprocess
import sys

# What pip calls a setting, and uv: its variables, and its options. An address may hold a password, which others can
# read in a command.
VARIABLES = {"index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "cert": "SSL_CERT_FILE"}
OPTIONS = {
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
    "no-index": "--no-index",
}
# Of pip, and of no account to what is installed.
APART = {
    "break-system-packages", "cache-dir", "config-file", "default-timeout", "disable-pip-version-check", "no-cache-dir",
    "no-color", "no-compile", "no-input", "no-warn-script-location", "prefer-binary", "progress-bar", "quiet",
    "retries", "root-user-action", "timeout", "verbose",
}  # fmt: skip
WEIGHT = {"global": 0, "install": 1, ":env:": 2}  # of two settings of one name pip heeds the one of more weight
LINE = re.compile(r"(?P<section>\S+)\.(?P<name>[a-z-]+)=(?P<value>'.*'|\".*\")")


def settings() -> dict[str, str]:
    """Of pip when it installs, from its files and the environment."""
    listed = [sys.executable, "-m", "pip", "config", "list", "-vvv"]  # for pip may be told to be quiet, even about this
    text = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    lines = [match for match in map(LINE.fullmatch, text.splitlines()) if match and match["section"] in WEIGHT]
    ordered = sorted(lines, key=lambda line: WEIGHT[line["section"]])
    return {line["name"]: ast.literal_eval(line["value"]) for line in ordered}


def for_uv(known: dict[str, str]) -> tuple[list[str], dict[str, str]] | None:
    """Options and variables of uv; None: uv cannot be told."""
    if unknown := known.keys() - VARIABLES.keys() - OPTIONS.keys() - APART:
        print(f"pip has settings that uv cannot be told ({', '.join(sorted(unknown))}); pip installs", file=sys.stderr)
        return None
    options = []
    for name, value in known.items():
        if name == "no-index":
            options += [OPTIONS[name]] * (value.lower() in ("1", "on", "true", "yes"))
        elif name in OPTIONS:
            options += [part for word in value.split() for part in (OPTIONS[name], word)]
    # As pip does: the newest that any of the indexes has.
    options.append("--index-strategy=unsafe-best-match")
    return options, {variable: known[name] for name, variable in VARIABLES.items() if name in known}


def main(extras: list[str]) -> int:
    """Exit status of whatever installed it."""
    what = ["--quiet", "--constraint", "constraints.txt", "--editable", f".[{','.join(extras)}]" if extras else "."]
    pip = [sys.executable, "-m", "pip", "install"]
    told = for_uv(settings())
    if told and subprocess.run([*pip, "--quiet", "--only-binary=uv", "uv"], capture_output=True).returncode == 0:
        options, environment = told
        uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, *options]
        if subprocess.run([*uv, *what], env=environment | os.environ).returncode == 0:
            return 0
        print("uv could not install it; pip tries", file=sys.stderr)
    return subprocess.run([*pip, "--no-compile", *what]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

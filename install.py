"""Install this checkout, editable, with the extras named: `python install.py dev`. The Makefile calls it.

uv does it in a quarter of pip's time, but reads none of pip's settings: it is told the indexes, certificates and
constraints that pip would use. Where uv cannot be had or fails, pip does it.
"""

import ast
import os
import subprocess
import sys

# What pip calls a setting, and uv.
OPTIONS = {
    "index-url": "--default-index",
    "extra-index-url": "--index",
    "find-links": "--find-links",
    "constraint": "--constraint",
    "trusted-host": "--allow-insecure-host",
}


def settings() -> tuple[list[str], dict[str, str]]:
    """Of pip, from its files and the environment: uv's options, and the variable that names certificates."""
    lines = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True)
    options, environment = [], {}
    for line in lines.stdout.splitlines():
        name, _, written = line.partition("=")
        name, value = name.rpartition(".")[2], ast.literal_eval(written)
        if name in OPTIONS:
            options += [part for word in value.split() for part in (OPTIONS[name], word)]
        elif name == "cert":
            environment["SSL_CERT_FILE"] = value
    return options, environment


def main(extras: list[str]) -> int:
    """Exit status of whatever installed it."""
    what = ["--quiet", "--constraint", "constraints.txt", "--editable", f".[{','.join(extras)}]" if extras else "."]
    pip = [sys.executable, "-m", "pip", "install"]
    if subprocess.run([*pip, "--quiet", "uv"], capture_output=True).returncode == 0:
        options, environment = settings()
        # As pip does: the newest that any of the indexes has.
        options.append("--index-strategy=unsafe-best-match")
        uv = [sys.executable, "-m", "uv", "pip", "install", "--python", sys.executable, *options]
        if subprocess.run([*uv, *what], env=environment | os.environ).returncode == 0:
            return 0
        print("uv could not install it; pip tries", file=sys.stderr)
    return subprocess.run([*pip, "--no-compile", *what]).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

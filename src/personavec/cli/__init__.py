"""The command line. `main` is the entry point; every command lives in the module named after its job."""

import io
import logging
import os
import sys


def main() -> None:
    """Run the command line; a user's mistake ends with one message and exit code 2, Ctrl-C with 130."""
    # Before torch is loaded: threads that wait for each other spin else, and take the cores from other work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    # No terminal is too old for a result, nor a line that is typed too odd to be answered.
    for stream, errors in ((sys.stdout, "backslashreplace"), (sys.stdin, "surrogateescape")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT loads it; it speaks of kernels that are not used

    import typer

    from personavec.cli.app import app
    from personavec.cli.flags import Formatter, with_flags
    from personavec.errors import UserError

    shown = logging.StreamHandler()
    shown.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(handlers=[shown], level=logging.WARNING)

    try:
        sys.exit(app(standalone_mode=False))
    except UserError as error:
        print(with_flags(f"Error: {error.problem}\n{error.advice}".rstrip()), file=sys.stderr)
        sys.exit(2)
    except (KeyboardInterrupt, typer.Abort):
        print("Interrupted. A run goes on where it stopped when the same command is given again.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (OSError, MemoryError) as error:
        reason = "out of memory" if isinstance(error, MemoryError) else error
        print(f"Error: {reason}\nFree some memory or disk, or mend the file's permissions.", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        # typer keeps the class of its usage errors to itself; they know how to show themselves.
        if not hasattr(error, "show") or not hasattr(error, "exit_code"):
            raise
        error.show()
        sys.exit(error.exit_code)

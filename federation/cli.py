"""The command `fedpeg`: a local federation with a two-way peg, from the shell.

Exit codes: 0 done, 1 refused or failed (reason on standard error), 2 usage, 128 + signal when
interrupted.
"""

import io
import os
import sys
from collections.abc import Sequence

import click

from federation import (
    bench,
    cli_asset,
    cli_audit,
    cli_emergency,
    cli_fault,
    cli_federation,
    cli_load,
    cli_local,
    cli_peg,
    cli_proofs,
    cli_pset,
    cli_receipts,
    cli_signer,
    cli_sim,
    cli_wallet,
)
from federation.bitcoind_process import BitcoindMissing
from federation.cli_session import Failed, Interrupted
from federation.local_state import LocalError
from peg.bitcoind import BitcoindError
from sidechain.api.client import RpcError
from sidechain.errors import Invalid, Unavailable

DEBUG_VARIABLE = "FEDPEG_DEBUG"
NEXT_STEP = "`fedpeg status` shows what runs, `fedpeg up` starts what is missing"
EXIT_FAILED = 1
EXIT_USAGE = 2
CODE_NOT_CONNECTED = -9


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name=None, version="0.1.0", prog_name="fedpeg")
def program() -> None:
    """A federation on this machine that pegs regtest bitcoin in and out.

    `fedpeg up` makes one, `fedpeg demo` shows one at work. Every command takes --data (which
    federation) and --json (output for programs).
    """


cli_local.register(program)
cli_pset.register(cli_wallet.register(program))
cli_asset.register(program)
cli_signer.register(program)
cli_sim.register(program)
cli_peg.register(program)
cli_audit.register(program)
cli_emergency.register(program)
cli_receipts.register(program)
cli_fault.register(program)
cli_federation.register(program)
cli_proofs.register(program)
bench.register(program)
cli_load.register(program)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    if sys.flags.optimize:
        return _fail("do not run with python -O: checks would be left out")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names may be in no encoding at all
    try:
        program.main(args=arguments, prog_name="fedpeg", standalone_mode=False)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.ClickException as error:
        error.show()
        return EXIT_USAGE
    except (click.Abort, KeyboardInterrupt):
        return 128 + 2
    except Interrupted as error:
        print("fedpeg: interrupted", file=sys.stderr)
        return 128 + error.signal_number
    except BrokenPipeError:  # whoever read our output has seen enough
        _leave_output()
        return 0
    except RpcError as error:
        hint = f"; {NEXT_STEP}" if error.code == CODE_NOT_CONNECTED else ""
        return _fail(f"{error.message}{hint}")
    except Unavailable as error:
        return _fail(f"{error}; {NEXT_STEP}")
    except (Failed, LocalError, BitcoindMissing, BitcoindError, Invalid) as error:
        return _fail(str(error))
    except OSError as error:
        _leave_output()
        return _fail(str(error))
    except Exception as error:  # a bug of ours: the user gets a sentence, whoever looks for it all
        if os.environ.get(DEBUG_VARIABLE):
            raise
        kind = type(error).__name__
        return _fail(f"an error inside fedpeg ({kind}: {error}); {DEBUG_VARIABLE}=1 tells where")
    return 0


def _leave_output() -> None:
    """Have what cannot be printed any more (disk full, pipe closed) forgotten at the exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(reason: str) -> int:
    print(f"fedpeg: {reason}", file=sys.stderr)
    return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())

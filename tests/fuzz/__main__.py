"""`python -m tests.fuzz [TARGET…] [--for SECONDS]`: fuzzes targets with atheris, one after another.

The corpus of each target is kept in `build/fuzz`, so that a later run goes on from there. The exit
code is 1 when an input broke a property; it is printed and kept beside the corpus.
"""

import argparse
import hashlib
import subprocess
import sys
import zlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "fuzz"
INPUT_BYTES_MAX = 20_000
ONE_INPUT_S_MAX = 20
RSS_MIB_MAX = 2_048
EXAMINED_ONE_OF = 32
"""Counting slows a target down, so this share of the inputs is examined in full, by checksum."""


def fuzz_here(name: str, arguments: list[str]) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    with atheris.instrument_imports(include=["sidechain"]):
        from tests.fuzz.targets import TARGETS, examine

    target = TARGETS[name]

    def one_input(data: bytes) -> None:
        if zlib.crc32(data) % EXAMINED_ONE_OF == 0:
            examine(target, data)
        else:
            target.read(data)

    atheris.Setup(["fuzz", *arguments], one_input)
    atheris.Fuzz()


def fuzz(name: str, seconds: int) -> bool:
    """Fuzz one target in a process of its own; whether nothing was found."""
    from tests.fuzz.seeds import seeds

    corpus, found = KEPT / name / "corpus", KEPT / name / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds(name):
        (corpus / hashlib.sha256(seed).hexdigest()[:40]).write_bytes(seed)
    before = {path.name for path in found.iterdir()}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "tests.fuzz",
            "--here",
            name,
            str(corpus),
            f"-max_total_time={seconds}",
            f"-max_len={INPUT_BYTES_MAX}",
            f"-timeout={ONE_INPUT_S_MAX}",
            f"-rss_limit_mb={RSS_MIB_MAX}",
            f"-artifact_prefix={found}/",
            "-print_final_stats=1",
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    said = done.stdout.splitlines()
    runs = [line.split()[-1] for line in said if "number_of_executed_units" in line]
    entries = len(list(corpus.iterdir()))
    print(f"{name}: {runs[0] if runs else 'no'} inputs, corpus of {entries}", flush=True)
    for path in sorted(found.iterdir()):
        if path.name not in before:
            print(f"{name}: broken by {path.name}: {path.read_bytes().hex()}")
    if done.returncode:
        print("\n".join(said[-40:]))
    return done.returncode == 0


def main() -> int:
    """The command."""
    if sys.argv[1:2] == ["--here"]:
        fuzz_here(sys.argv[2], sys.argv[3:])
        return 0
    from tests.fuzz.targets import TARGETS

    parser = argparse.ArgumentParser(prog="deploy/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    parser.add_argument("--for", type=int, default=60, dest="seconds", help="seconds for each")
    chosen = parser.parse_args()
    unknown = sorted(set(chosen.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target {unknown[0]}; there are {', '.join(TARGETS)}")
    outcomes = [fuzz(name, chosen.seconds) for name in chosen.targets or TARGETS]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

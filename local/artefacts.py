#!/usr/bin/env python3
"""Checks the output of `sam build`: the size of each function, and the glibc that it needs.

usage: local/artefacts.py FOLDER

Exit code 1 if a function needs a newer glibc than Amazon Linux 2023 has, or if order-intake is too large.
"""

import argparse
import pathlib
import re
import sys
import zlib

GLIBC = (2, 34)  # of Amazon Linux 2023
MAX_BYTES = {"OrderIntakeFunction": 5_000_000}


def newest_glibc(binary: bytes) -> tuple[int, int]:
    """The newest glibc version of the binary's symbols; (0, 0) if it names none."""
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", binary)
    return max(((int(major), int(minor)) for major, minor in versions), default=(0, 0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="output folder of sam build")
    folder = parser.parse_args().folder
    functions = sorted(folder.glob("*/bootstrap"))
    if not functions:
        print(f"{folder} holds no functions; run make sam-build", file=sys.stderr)
        return 1
    wrong = []
    print(f"{'function':<28}{'MB':>7}{'zipped':>9}   glibc")
    for path in functions:
        name, binary = path.parent.name, path.read_bytes()
        zipped, glibc = len(zlib.compress(binary, 6)), newest_glibc(binary)
        print(f"{name:<28}{len(binary) / 1e6:>7.2f}{zipped / 1e6:>9.2f}   {glibc[0]}.{glibc[1]}")
        if glibc == (0, 0):
            wrong.append(f"{name} names no glibc version: is it a Linux program?")
        elif glibc > GLIBC:
            wrong.append(f"{name} needs glibc {glibc[0]}.{glibc[1]}, and Amazon Linux 2023 has {GLIBC[0]}.{GLIBC[1]}")
        if zipped >= MAX_BYTES.get(name, sys.maxsize):
            wrong.append(f"{name} has {zipped:,} bytes zipped; the limit is {MAX_BYTES[name]:,}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

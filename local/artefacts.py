#!/usr/bin/env python3
"""What `sam build` has made: how large each function is, and on which machines it runs.

usage: local/artefacts.py FOLDER

Ends with 1 where a function needs a newer glibc than Amazon Linux 2023 has, or order-intake is too large.
"""

import argparse
import pathlib
import re
import sys
import zlib

GLIBC = (2, 34)  # of Amazon Linux 2023
MOST_BYTES = {"OrderIntakeFunction": 3_000_000, "OrderIntakeManagedFunction": 3_000_000}


def newest_glibc(binary: bytes) -> tuple[int, int]:
    """The newest version whose symbols the binary asks for; (0, 0) where it names none."""
    versions = re.findall(rb"GLIBC_(\d+)\.(\d+)", binary)
    return max(((int(major), int(minor)) for major, minor in versions), default=(0, 0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="where sam build has put the functions")
    folder = parser.parse_args().folder
    functions = sorted(folder.glob("*/bootstrap"))
    if not functions:
        print(f"{folder} holds no function; run make sam-build", file=sys.stderr)
        return 1
    wrong = []
    print(f"{'function':<28}{'MB':>7}{'zipped':>9}   glibc")
    for path in functions:
        name, binary = path.parent.name, path.read_bytes()
        zipped, glibc = len(zlib.compress(binary, 6)), newest_glibc(binary)
        print(f"{name:<28}{len(binary) / 1e6:>7.2f}{zipped / 1e6:>9.2f}   {glibc[0]}.{glibc[1]}")
        if glibc == (0, 0):
            wrong.append(f"{name} does not say which glibc it needs: is it a Linux program?")
        elif glibc > GLIBC:
            wrong.append(f"{name} needs glibc {glibc[0]}.{glibc[1]}, and Amazon Linux 2023 has {GLIBC[0]}.{GLIBC[1]}")
        if zipped >= MOST_BYTES.get(name, sys.maxsize):
            wrong.append(f"{name} has {zipped:,} bytes zipped, and may have {MOST_BYTES[name]:,}")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Writes a hitcount.history and a grade.info of any size: the same seed gives the same bytes."""

from __future__ import annotations

import argparse
import random
from pathlib import Path

BLOCK = 20_000  # lines joined before each write
GENERATION = 1_527_951_607
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def addresses(count: int) -> list[str]:
    """The first ``count`` destination addresses of the generated node."""
    return [f"172.18.{1 + number // 250}.{1 + number % 250}" for number in range(count)]


def names(files: int, chance: random.Random) -> list[str]:
    """``files`` different names in the field's usual shape."""
    pool = ["".join(chance.choices(LETTERS, k=11)) for _ in range(4096)]
    return [
        f"M{pool[chance.getrandbits(12)]}{number:07d}_K2018{1 + number % 12:02d}{1 + number % 28:02d}222428.mpg"
        for number in range(files)
    ]


def write_inputs(directory: Path, files: int, servers: int = 40, seed: int = 1) -> tuple[Path, Path]:
    """Writes ``.hitcount.history`` and ``.grade.info`` for ``files`` files below ``directory``; returns their paths.

    Every hundredth file is in one of the two only, one in 20,000 lines is blank or short, each file has 0 to 4 holders
    of ``servers`` destinations and now and then one that no config names.
    """
    chance = random.Random(seed)
    every = names(files, chance)
    history, grades = directory / ".hitcount.history", directory / ".grade.info"
    _write_history(history, every, addresses(servers), chance)
    chance.shuffle(every)
    _write_grades(grades, every)
    return history, grades


def _write_history(path: Path, every: list[str], servers: list[str], chance: random.Random) -> None:
    lists = [_holders(servers, chance) for _ in range(8192)]
    with path.open("wb") as out:
        out.write(b"historyheader:%d\n" % GENERATION)
        for start in range(0, len(every), BLOCK):
            lines = [
                f"{name},{GENERATION - chance.getrandbits(24)},6399785,{chance.getrandbits(31)},"
                f"{lists[chance.getrandbits(13)]},2,0,0,1=1 2\n"
                for name in every[start : start + BLOCK]
                if not name.endswith("28222428.mpg") or chance.getrandbits(2)
            ]
            lines.append("\n" if start // BLOCK % 2 else "short,1,2\n")
            out.write("".join(lines).encode())


def _holders(servers: list[str], chance: random.Random) -> str:
    chosen = chance.sample(servers, chance.choice((0, 1, 1, 1, 2, 2, 3, 4)))
    return " ".join(chosen + (["10.9.9.9"] if chance.random() < 0.05 else []))


def _write_grades(path: Path, every: list[str]) -> None:
    with path.open("wb") as out:
        out.write(b"filename\tweightcount\tbitrate\tgrade\tsumHitCount\thistoryCount\tTargetCopyCount\n")
        for start in range(0, len(every), BLOCK):
            lines = [
                f"{name}\t{(start + line) * 3}\t6399785\t{1 + (start + line) // 1000}\t{line % 97}\t5\t1\n"
                for line, name in enumerate(every[start : start + BLOCK])
                if not name.endswith("27222428.mpg") or line % 4
            ]
            lines.append("\n")
            out.write("".join(lines).encode())


def main() -> None:
    """Command line: the folder to write to, and how many files."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("directory", type=Path)
    options.add_argument("--files", type=int, default=1_000_000)
    options.add_argument("--servers", type=int, default=40)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    for path in write_inputs(given.directory, given.files, given.servers, given.seed):
        print(path)


if __name__ == "__main__":
    main()

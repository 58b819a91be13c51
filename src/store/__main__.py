"""`python -m src.store ls|verify|rm`: what the feature store holds, and whether it is sound."""

import argparse
from fnmatch import fnmatchcase
from pathlib import Path

from rich.filesize import decimal
from rich.text import Text

from src.command_line import run_command
from src.errors import UserError
from src.store.entry import read_manifest, verify
from src.store.shards import DamageError
from src.store.store import FeatureStore, remove
from src.terminal import print_rows

LABELS = ("dataset", "split", "backbone", "hash")


def main() -> None:
    """Run one of the three commands.

    Raises:
        UserError: `verify` found damage, or `rm` found nothing.
    """
    parser = argparse.ArgumentParser(prog="python -m src.store", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    root = argparse.ArgumentParser(add_help=False)
    root.add_argument("--root", type=Path, default=Path("features"), help="default: %(default)s")
    commands.add_parser("ls", parents=[root], help="list the entries and the space they take")
    commands.add_parser("verify", parents=[root], help="recompute every checksum")
    removal = commands.add_parser("rm", parents=[root], help="remove entries")
    removal.add_argument("pattern", help="of dataset/entry, for example 'eurosat/*'")
    arguments = parser.parse_args()

    store = FeatureStore(arguments.root)
    if arguments.command == "ls":
        list_entries(store)
    elif arguments.command == "verify":
        verify_entries(store)
    else:
        remove_entries(store, arguments.pattern)


def list_entries(store: FeatureStore) -> None:
    entries = store.entries()
    if entries:
        rows = [_row(folder) for folder in entries]
        print_rows(
            [{heading: Text(cell) for heading, cell in row.items()} for row in rows],
            LABELS, words={*LABELS, "tensors", "made on"}, prose={"tensors"},
        )  # fmt: skip
    print(f"{decimal(sum(map(_size, entries)))} in {store.root}, entries: {len(entries)}")


def _row(folder: Path) -> dict[str, str]:
    """Describe an entry; of one that is not whole, only what its folder says."""
    try:
        manifest = read_manifest(folder)
    except DamageError:
        manifest = None
    split, _, rest = folder.name.partition("-")
    backbone, _, digest = rest.rpartition("-")
    tensors = [
        " ".join([name, "×".join(map(str, about["shape"]))])
        for name, about in (manifest["tensors"] if manifest else {}).items()
    ]
    return {
        "dataset": folder.parent.name,
        "split": split,
        "backbone": backbone,
        "hash": digest[:8],
        "rows": f"{manifest['rows']:,}" if manifest else "",
        "tensors": ", ".join(one.strip() for one in tensors),
        "size": decimal(_size(folder)),
        "made on": manifest["created_at"][:10] if manifest else "incomplete",
    }


def verify_entries(store: FeatureStore) -> None:
    entries = store.entries()
    damages = [damage for folder in entries for damage in verify(folder)]
    if damages:
        lines = "\n".join(damages)
        raise UserError(
            f"{lines}\nDelete the damaged files: the next run makes again what is missing."
        )
    print(f"no damage in {store.root}, entries: {len(entries)}")


def remove_entries(store: FeatureStore, pattern: str) -> None:
    names = {folder.relative_to(store.root).as_posix(): folder for folder in store.entries()}
    matching = {name: folder for name, folder in names.items() if fnmatchcase(name, pattern)}
    if not matching:
        raise UserError(f"{pattern!r} matches no entry in {store.root}: `ls` lists them.")
    freed = 0
    for name, folder in matching.items():
        size = _size(folder)
        remove(folder)
        freed += size
        print(f"removed {name} ({decimal(size)})")
    print(f"{decimal(freed)} came free")


def _size(folder: Path) -> int:
    # Temporary files are left out: a running process may have removed them meanwhile.
    return sum(path.stat().st_size for path in folder.glob("[!.]*"))


if __name__ == "__main__":
    run_command(main)

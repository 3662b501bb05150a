"""Run by the image's own interpreter, pinned by hash: what it makes is the same whatever Python builds the image.

`inside.py compile FOLDER PREFIX` puts compiled code in the place of sources; `inside.py compress FROM TO` is gzip.
"""

import marshal
import sys
import zlib
from importlib.util import MAGIC_NUMBER, source_hash
from pathlib import Path

# PEP 552: identified by its source's hash, which is not compared: the source is not there.
_UNCHECKED_HASH = 1
_GZIP_WINDOW = 31
# 2 % more than the best level gives, in a third of the time.
_LEVEL = 6
_BLOCK_BYTES = 1 << 20


def compile_folder(folder: Path, prefix: str) -> None:
    """Replace each source under `folder` by its code, which names the source by its place in the image."""
    for path in sorted(path for path in folder.rglob("*.py") if not path.is_symlink()):
        source = path.read_bytes()
        place = prefix + path.relative_to(folder).as_posix()
        code = compile(source, place, "exec", dont_inherit=True, optimize=0)
        head = MAGIC_NUMBER + _UNCHECKED_HASH.to_bytes(4, "little") + source_hash(source)
        path.with_suffix(".pyc").write_bytes(head + marshal.dumps(code))
        path.unlink()


def compress(source: Path, target: Path) -> None:
    """Write gzip (RFC 1952) without a name or a time."""
    # Python's own gzip module is not in the image.
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
    with source.open("rb") as reader, target.open("wb") as writer:
        while block := reader.read(_BLOCK_BYTES):
            writer.write(packer.compress(block))
        writer.write(packer.flush())


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["compile", folder, prefix]:
            compile_folder(Path(folder), prefix)
        case ["compress", source, target]:
            compress(Path(source), Path(target))
        case _:
            sys.exit("inside.py: for ephemeralml.image.interpreter alone")

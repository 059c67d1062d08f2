"""Records that agree with a prompt at their beginning and part from it before their end.

A file name tells whether a whole record fits, not how much of one does: that takes the token ids in
the header. Only a few headers are read per lookup, those of the records used last.
"""

from lmx.engines.prefix.disk.digests import TOKEN_BYTES, PrefixDigests
from lmx.engines.prefix.disk.entries import Entry
from lmx.engines.prefix.disk.files import Files
from lmx.engines.prefix.disk.format import Damaged, Identity, decode_identity, head_bytes

# Holds the header of a record of 25,000 tokens; a longer one takes a second read.
_FIRST_READ_BYTES = 128 * 1024


def read_identity(files: Files, entry: Entry, digests: PrefixDigests) -> Identity:
    """What a file says it is, proved to be what its name says.

    Args:
        files: The file system.
        entry: A record that begins at a position of the prompt.
        digests: Of the prompt.

    Raises:
        OSError: It cannot be read.
        Damaged: The header has changed, or is that of another record.
    """
    data = files.read(entry.path, _FIRST_READ_BYTES)
    if (wanted := head_bytes(data)) > len(data):
        data = files.read(entry.path, wanted)
    identity = decode_identity(data)
    proved = digests.extended(entry.start, identity.ids)
    expected = Identity(
        namespace=digests.namespace,
        salt=digests.salt,
        start_digest=digests.at(entry.start),
        end_digest=entry.end_digest,
        start=entry.start,
        end=entry.end,
        ids=identity.ids,
    )
    if identity != expected or proved != entry.end_digest:
        raise Damaged("it holds another prompt, model or version than its name says")
    return identity


def common_tokens(first: bytes, second: bytes) -> int:
    """How many token ids two runs of them share at the beginning."""
    low, high = 0, min(len(first), len(second)) // TOKEN_BYTES
    while low < high:
        middle = (low + high + 1) // 2
        if (
            first[low * TOKEN_BYTES : middle * TOKEN_BYTES]
            == (second[low * TOKEN_BYTES : middle * TOKEN_BYTES])
        ):
            low = middle
        else:
            high = middle - 1
    return low

"""A seal at the end of a file: how many bytes came before it, and their checksum.

A compiled library that was cut short while it was copied ends the process when it is loaded; the
seal shows that before. ELF, Mach-O and PE files may have bytes behind their last section.
"""

import zlib


def seal(body: bytes) -> bytes:
    """What comes behind the body."""
    return b"\nmini_moe sealed %012d bytes, crc32 %08x\n" % (len(body), zlib.crc32(body))


LENGTH = len(seal(b""))


def is_whole(data: bytes) -> bool:
    """Whether the file is as it was when it was sealed."""
    return data[-LENGTH:] == seal(data[:-LENGTH])

"""What a file is, by its first bytes, where somebody took it for a checkpoint."""

from __future__ import annotations

from gfnet_fast.errors import shown

_BEGINNINGS = {
    b"version https://git-lfs": "a Git LFS pointer: the file itself was not fetched (`git lfs pull`)",
    b"\x89HDF": "an HDF5 file",
    b"\x1f\x8b": "a gzip file: unpack it first",
    b"\x93NUMPY": "a numpy array",
    b"\x89PNG": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
}


def what_else(head: bytes) -> str | None:
    """What a file is by its first bytes, where it is plainly no checkpoint."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "an empty file"
    for beginning, words in _BEGINNINGS.items():
        if head.startswith(beginning):
            return words
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page: the download was answered with one"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        return "a safetensors file: name the folder that holds it"
    if head[257:262] == b"ustar":
        return "a tar archive"
    if all(byte >= 32 or byte in b"\t\r\n\x1b" for byte in head[:64]):
        return f"a text that begins with {shown(head[:40].decode('utf-8', 'replace'))}"
    return None

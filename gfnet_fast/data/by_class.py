"""Folders of images by class: FOLDER/CLASS/*, at any depth below the class."""

from __future__ import annotations

from pathlib import Path

from gfnet_fast.errors import InputError
from gfnet_fast.pictures import SUFFIXES
from gfnet_fast.walking import find, folders_in


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones aside, by name; none where there is no such folder."""
    return folders_in(folder) if folder.is_dir() else []


def images_of(folder: Path) -> list[Path]:
    """The images of a class by path; InputError where there is none, or a folder cannot be read."""
    images: list[Path] = []
    for found in find(str(folder), inside=folder.parent):
        if isinstance(found, InputError):
            raise found
        images.append(found)
    if not images:
        raise InputError(f"{folder}: expected images ({' '.join(sorted(SUFFIXES))}), got an empty class")
    return images

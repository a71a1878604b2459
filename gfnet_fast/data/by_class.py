"""Folders of images by class: FOLDER/CLASS/*, at any depth below the class."""

from __future__ import annotations

from pathlib import Path

from gfnet_fast.errors import InputError
from gfnet_fast.sources import SUFFIXES


def class_folders(folder: Path) -> list[Path]:
    """The folders in a folder, hidden ones aside, by name; none where there is no such folder."""
    inside = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in inside if path.is_dir() and not path.name.startswith("."))


def images_of(folder: Path) -> list[Path]:
    """The images of a class by path; InputError where there is none."""
    paths = folder.rglob("*")
    images = sorted(path for path in paths if path.suffix.lower() in SUFFIXES and path.is_file())
    if not images:
        raise InputError(f"{folder}: expected images ({' '.join(sorted(SUFFIXES))}), got an empty class")
    return images

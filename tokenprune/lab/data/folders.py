"""Pictures that lie in a folder, in the order that people expect; one subfolder a class."""

from __future__ import annotations

import re
from pathlib import Path

from tokenprune.errors import DataError
from tokenprune.errors.files import reason
from tokenprune.lab.data.pictures import spread
from tokenprune.lab.data.question import Question
from tokenprune.lab.data.reading import PICTURES


def class_folders(path: Path, limit: int | None = None) -> tuple[list[str], list[Question]]:
    """The classes of a folder with one subfolder each, and their pictures.

    Classes are numbered from 0 in the natural order of their names, which is timm's: `2` before
    `10`. A subfolder without pictures is a class that no picture is of.

    Args:
        path: the folder; hidden subfolders and files beside the subfolders are passed over.
        limit: at most so many pictures, spread evenly over the classes in order.

    Returns:
        The names by number, and a sample a picture: its file, with the number as the answer.

    Raises:
        DataError: there are no subfolders, or no pictures in them.
    """
    folders = [folder for folder in listed(path) if folder.is_dir()]
    if not folders:
        raise DataError(
            "the folder has no subfolders.",
            where=str(path),
            remedy="Put the pictures of each class into a subfolder, or name their 'labels'.",
        )
    files = [(file, number) for number, one in enumerate(folders) for file in pictures_in(one)]
    if not files:
        raise DataError("there are no pictures in the subfolders.", where=str(path))
    samples = [
        Question(file, str(number), image_id=image) for image, (file, number) in enumerate(files)
    ]
    return [folder.name for folder in folders], spread(samples, limit)


def numbered_folders(path: Path, classes: int, limit: int | None = None) -> list[Question]:
    """The same for a classifier, whose classes the subfolders have to be, one by one.

    Args:
        path: the folder.
        classes: of the model.
        limit: at most so many pictures.

    Raises:
        DataError: as above, or there are more or fewer subfolders than classes: then their order
            says nothing about the model's numbers.
    """
    names, samples = class_folders(path, limit)
    if len(names) != classes:
        raise DataError(
            f"there are {len(names)} subfolders, and the model has {classes} classes, so their "
            "order doesn't give the classes' numbers.",
            where=str(path),
            remedy="Write a CSV file with the header file,class_index and name it in 'labels'.",
        )
    return samples


def natural(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts by numbers where names hold them: `frame_2.png` before `frame_10.png`.

    Letters are compared without case; names that are equal but for that, or for leading zeros,
    keep an order of their own.
    """
    parts = re.split(r"([0-9]+)", name.casefold())
    numbers = [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]
    return numbers, name


def listed(folder: Path) -> list[Path]:
    """What lies in a folder, hidden entries left out, in natural order.

    Raises:
        DataError: it can't be read.
    """
    try:
        found = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"the folder can't be read ({reason(error, 'folder')}).", where=str(folder)
        ) from error
    return sorted(found, key=lambda path: natural(path.name))


def pictures_in(folder: Path) -> list[Path]:
    """The files of a folder that end like pictures, in natural order; none of its subfolders.

    Raises:
        DataError: it can't be read.
    """
    return [path for path in listed(folder) if path.suffix.lower() in PICTURES and path.is_file()]

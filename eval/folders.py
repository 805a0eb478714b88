"""The two sides of every comparison: a folder of images, with or without its table."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from sdcxr.errors import UserError
from sdcxr.files import existing_folder, inside
from sdcxr.manifest import image_ids, read_metadata

SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp")


@dataclass(frozen=True)
class ImageFolder:
    """The images of one side, in the order of their table."""

    folder: Path
    rows: pd.DataFrame
    """metadata.csv, at least `file_name`; a plain folder of images has no other column."""

    @property
    def paths(self) -> list[Path]:
        """The image files."""
        return [self.folder / name for name in self.rows["file_name"]]

    @property
    def ids(self) -> list[str]:
        """A unique name for each image: its file name, without the folder."""
        return self.rows["file_name"].tolist()

    @property
    def prompt_ids(self) -> list[str] | None:
        """Which row of the prompts an image belongs to: `id` of samples, dicom_id (or file stem) of a dataset."""
        if "id" in self.rows:
            return self.rows["id"].tolist()
        return image_ids(self.rows).tolist() if "text" in self.rows else None

    @property
    def groups(self) -> list[str]:
        """What is resampled together: the images of a patient, else of a prompt, else each image by itself."""
        for column in ("subject_id", "id", "file_name"):
            if column in self.rows and (self.rows[column].astype(str) != "").all():
                return self.rows[column].astype(str).tolist()
        return self.ids

    @property
    def is_samples(self) -> bool:
        """Whether generate.py wrote it."""
        return "seed" in self.rows and "scheduler" in self.rows

    def __len__(self) -> int:
        return len(self.rows)


def read_folder(folder: str | Path, flag: str) -> ImageFolder:
    """A split of a dataset folder, a samples folder, or a plain folder of images.

    Args:
        folder: the folder.
        flag: the command-line flag it came from, for messages.

    Raises:
        UserError: it does not exist or holds no images.
    """
    folder = existing_folder(folder, flag)
    if (folder / "metadata.csv").is_file():
        rows = read_metadata(folder)
        for name in rows["file_name"]:
            inside(folder, name)
    else:
        names = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
        rows = pd.DataFrame({"file_name": names})
    if not len(rows):
        splits = [path.name for path in folder.iterdir() if (path / "metadata.csv").is_file()]
        hint = f"; give one of its splits: {', '.join(sorted(splits))}" if splits else ""
        raise UserError(f"{flag} {folder} holds no images{hint}")
    return ImageFolder(folder, rows)


def read_sides(real: str | Path, synthetic: str | Path) -> tuple[ImageFolder, ImageFolder]:
    """Both sides, refused where they are swapped or the same folder.

    Raises:
        UserError: see above.
    """
    sides = read_folder(real, "--real"), read_folder(synthetic, "--synthetic")
    if sides[0].folder.resolve() == sides[1].folder.resolve():
        raise UserError(f"--real and --synthetic are the same folder: {real}")
    if sides[0].is_samples and not sides[1].is_samples:
        raise UserError(f"--real {real} is a samples folder: are --real and --synthetic swapped?")
    return sides

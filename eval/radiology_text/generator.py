"""Report generation from images by an image-to-text model of transformers, from a folder or the hub's cache.

Weights are read from safetensors only, code from a repository is never run, nothing is downloaded. Decoding is greedy:
the same images give the same reports.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.extractors.weights import hub_folder, load_pretrained, loading
from eval.inputs.images import Unusable, read_grey, refuse
from sdcxr.io.hub import is_hub_name
from sdcxr.runtime.errors import UserError, first_line
from sdcxr.runtime.quiet import quiet_libraries


@dataclass(frozen=True)
class ReportModel:
    """A model on its device with its image processor and tokenizer."""

    model: Any
    images: Any
    """The image processor, or the joint processor of images and text."""
    tokenizer: Any
    question: str | None
    """Instruction beside the image, for models that need one."""
    max_new_tokens: int

    def write_reports(self, pictures: list[Any]) -> list[str]:
        """Reports of RGB images, with normalised white space.

        Raises:
            UserError: the model cannot process them; the message contains none of the text.
        """
        import torch

        said = {"text": [self.question] * len(pictures), "padding": True} if self.question else {}
        try:
            inputs = self.images(images=pictures, return_tensors="pt", **said).to(self.model.device)
            with torch.inference_mode(), quiet_libraries():
                tokens = self.model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=self.max_new_tokens)
        except (ValueError, TypeError) as error:
            hint = "" if self.question else " (a model that wants an instruction gets it with --question)"
            raise UserError(f"--report_model cannot read images: {first_line(error)}{hint}") from None
        asked = inputs.get("input_ids")
        if asked is not None and not self.model.config.is_encoder_decoder:
            tokens = tokens[:, asked.shape[1] :]  # decoder-only models repeat the question
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def write_reports(
    paths: Sequence[Path],
    generator: str,
    *,
    weights_dir: Path | None = None,
    question: str | None = None,
    max_new_tokens: int = 100,
    batch_size: int = 16,
) -> list[str]:
    """A report for every image; each process generates its share, and all return all reports.

    Args:
        paths: image files, read as grey.
        generator: folder of an image-to-text model, or its name on the hub.
        weights_dir: folder of models of the hub, as `owner/name` or `name`.
        question: instruction for models that need one.
        max_new_tokens: maximum length of a report in tokens.
        batch_size: images per forward pass.

    Raises:
        UserError: the model is absent, incomplete, not in safetensors form or of another kind; images are unreadable.
    """
    from tqdm import tqdm

    from sdcxr.runtime.processes import processes

    state = processes()
    mine = paths[state.process_index :: state.num_processes]
    refuse([problem for problem in _of_all([_problem(path) for path in mine]) if problem], paths)
    model = load(generator, weights_dir, question, max_new_tokens)
    starts = range(0, len(mine), batch_size)
    reports: list[str] = []
    for start in tqdm(starts, desc="reading images", unit="batch", leave=False, disable=not state.is_main_process):
        pictures = [read_grey(path)[0].convert("RGB") for path in mine[start : start + batch_size]]
        reports += model.write_reports(pictures)
    return _of_all(reports)


def _of_all(mine: list[Any]) -> list[Any]:
    """Gather the values of all processes, each of which has every n-th image, in the order of the images."""
    from accelerate.utils import gather_object

    parts = gather_object([mine])
    found: list[Any] = [None] * sum(map(len, parts))
    for i, part in enumerate(parts):
        found[i :: len(parts)] = part
    return found


def _problem(path: Path) -> str | None:
    """The problem of an unusable image: all are checked before hours are spent on the others."""
    try:
        read_grey(path)
    except Unusable as problem:
        return f"{path.name} {problem}"
    return None


def load(generator: str, weights_dir: Path | None, question: str | None, max_new_tokens: int) -> ReportModel:
    """Load the model of a folder or hub name with all of its weights on the device of this process.

    Raises:
        UserError: see `write_reports`.
    """
    folder = locate_report_model(generator, weights_dir)

    from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

    from sdcxr.runtime.processes import processes

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with loading(f"--report_model {folder}"):
        images = AutoProcessor.from_pretrained(folder, **options)
        tokenizer = getattr(images, "tokenizer", None)
        if tokenizer is None:  # models put together from an encoder and a decoder have one processor each
            images = AutoImageProcessor.from_pretrained(folder, **options)
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
        model, absent = load_pretrained(AutoModelForImageTextToText, folder)
    if absent:
        raise UserError(f"--report_model {folder}: {len(absent)} weights are absent (first: {absent[0]})")
    return ReportModel(model.eval().to(processes().device), images, tokenizer, question, max_new_tokens)


def locate_report_model(generator: str, weights_dir: Path | None) -> Path:
    """The folder of a model.

    Raises:
        UserError: it is neither a folder with a model in safetensors form nor a name in the hub's cache.
    """
    folder = Path(generator).expanduser()
    if not folder.is_dir():
        if not is_hub_name(generator):
            raise UserError(f"--report_model {generator}: no such folder (a hub name has the form owner/name)")
        folder = hub_folder(generator, weights_dir, "size unknown")
    if not (folder / "config.json").is_file():
        raise UserError(f"--report_model {folder} has no config.json: it is not the folder of a model of transformers")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"--report_model {folder} has no .safetensors weights: pickled ones are not read, convert them")
    return folder

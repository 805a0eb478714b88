"""Registry of backbones, and loading one by hub name, pipeline folder or run folder."""

from importlib import import_module
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError

from sdcxr.backbones.pipeline_files import check_pipeline_folder, pipeline_class_of, save_pipeline
from sdcxr.io.files import read_json
from sdcxr.io.hub import is_hub_name
from sdcxr.runtime.errors import UserError, first_line
from sdcxr.runtime.memory import is_out_of_memory
from sdcxr.runtime.quiet import LIBRARIES, quiet_libraries

# By the `_class_name` of model_index.json: a class, or where it is imported from at first use.
FAMILIES: dict[str, Any] = {
    "StableDiffusionPipeline": "sdcxr.backbones.stable_diffusion:StableDiffusion",
    "StableDiffusionXLPipeline": "sdcxr.backbones.sdxl:StableDiffusionXL",
    "StableDiffusion3Pipeline": "sdcxr.backbones.sd3:StableDiffusion3",
    "PixArtSigmaPipeline": "sdcxr.backbones.pixart:PixArtSigma",
    "SanaPipeline": "sdcxr.backbones.sana:Sana",
    "Flux2KleinPipeline": "sdcxr.backbones.flux2_klein:Flux2Klein",
}
# Families that are known and not supported, with what they would need.
UNSUPPORTED = {
    "FluxPipeline": "FLUX.1 has 12 billion parameters: it needs weights sharded over GPUs, and embedded guidance",
    "ZImagePipeline": "Z-Image takes lists of texts of different lengths, which batches and caches here do not have",
    "Lumina2Pipeline": "Lumina 2 rounds lengths of texts within its network, which cannot be compiled or counted",
}

# Of a damaged or unknown file, wherever in the libraries it shows.
LOADING_ERRORS = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(SafetensorError, StrictDataclassError, UserError),  # of weights, of a config.json of transformers, of our own
)


def register(family: Any) -> Any:
    """Add a backbone class (see `base.Backbone`) to the registry; also usable as a decorator."""
    FAMILIES[family.pipeline_class] = family
    return family


def part_of(path: Path) -> Path | None:
    """The pipeline folder that a file or folder is a part of, if it is one."""
    return next((parent for parent in list(path.parents)[:2] if (parent / "model_index.json").is_file()), None)


def locate_pipeline(model: str) -> str:
    """The pipeline folder or hub name behind `model`: a hub name, a pipeline folder or a run folder.

    Raises:
        UserError: a folder without a pipeline, an unfinished run, a missing part or weights file, an unknown family,
            or a name that is neither a folder nor `owner/name`.
    """
    folder = Path(model).expanduser()
    if folder.exists() and not (folder / "model_index.json").is_file() and (whole := part_of(folder)):
        raise UserError(f"{model} is a part of a pipeline folder: give {whole}")
    if folder.is_dir():
        if (folder / "pipeline" / "model_index.json").is_file():
            folder = folder / "pipeline"
        elif network := next((name for name in ("classifier", "segmenter", "clip") if (folder / name).is_dir()), None):
            raise UserError(f"{model} is the run of a {network}: it generates nothing")
        elif (folder / "config.yaml").is_file():
            raise UserError(f"{model} is a run without a pipeline yet: let its training finish (same command again)")
        check(folder)
        return str(folder)
    if folder.exists():
        raise UserError(f"{model} is a file: {way_out(folder)}")
    if not is_hub_name(model):
        raise UserError(f"{model}: no such folder (a hub name has the form owner/name)")
    return model


def way_out(file: Path) -> str:
    """What to do with a file where a folder is needed: all weights in one file, as other programs have it, convert."""
    if file.suffix.lower() not in (".safetensors", ".ckpt", ".pt", ".bin"):
        return "give a pipeline folder, a run folder or a hub name"
    return (
        f'make a pipeline folder of it with diffusers, StableDiffusionPipeline.from_single_file("{file}")'
        '.save_pretrained("FOLDER"), and give that'
    )


def check(folder: Path) -> Any:
    """The backbone class of a pipeline folder whose parts are all there.

    Raises:
        UserError: an unknown family, which lists those that there are, or a missing part.
    """
    family = find_family(folder, folder)
    check_pipeline_folder(folder, tuple(family.components.values()), family.tokenizers)
    return family


def find_family(folder: Path, where: Path | str) -> Any:
    """The backbone class of a folder with a model_index.json; `where` that is from begins the message.

    Raises:
        UserError: an unknown family, which lists those that there are, or a member of one that is not supported.
    """
    pipeline_class = pipeline_class_of(folder)
    if why := UNSUPPORTED.get(pipeline_class):
        raise UserError(f"{where} is a {pipeline_class}, which is not supported: {why}")
    if pipeline_class not in FAMILIES:
        raise UserError(f"{where} is a {pipeline_class}: supported are {', '.join(FAMILIES)}")
    family = FAMILIES[pipeline_class]
    if isinstance(family, str):
        module, _, name = family.partition(":")
        family = getattr(import_module(module), name)
    if hasattr(family, "check_index"):
        try:
            family.check_index(read_json(folder / "model_index.json"))
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
    return family


def load(model: str, dtype: Any = None) -> Any:
    """Load a backbone from the hub or a local folder (see `locate_pipeline`), weights from safetensors only.

    Args:
        model: hub name, pipeline folder or run folder.
        dtype: of the weights, see `base.Backbone.load`. Default: float32.

    Raises:
        UserError: what is missing, where it was looked for, and how to get it; weights that do not fit.
    """
    import torch

    where = Path(located := locate_pipeline(model))
    if not where.is_dir():
        where = Path(download(located))
    family = check(where)
    refuse_half(family, dtype)
    try:
        with quiet_libraries(*LIBRARIES):
            return family.load(where, dtype or torch.float32)
    except LOADING_ERRORS as error:
        if is_out_of_memory(error):
            raise
        raise UserError(f"{where} cannot be loaded: {first_line(error)}") from None


def refuse_half(family: Any, dtype: Any) -> None:
    """Refuse float16 for a backbone, or a class of them, in which it overflows.

    Raises:
        UserError: names the pipeline, and what to use.
    """
    import torch

    if dtype == torch.float16 and not getattr(family, "half", True):
        raise UserError(f"a {family.pipeline_class} overflows in float16: use --mixed_precision bf16 or no")


def download(name: str) -> str:
    """The local folder of a pipeline on the hub, downloaded where it is not cached.

    Raises:
        UserError: it cannot be reached, or is nothing that is supported, which is known before the weights are there.
    """
    from diffusers import DiffusionPipeline

    check_index(name)
    # No safety checker: it blanks radiographs.
    parts: dict[str, Any] = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    failed = None
    for variant in (None, "fp16"):  # the second for repositories that have no other
        try:
            with quiet_libraries(*LIBRARIES):
                return str(DiffusionPipeline.download(name, use_safetensors=True, variant=variant, **parts))
        except (OSError, ValueError) as error:
            refuse_gated(name, error)
            failed = failed or first_line(error)
    raise UserError(
        f"{name} is neither a folder here nor could it be had from the Hugging Face hub ({failed}): check the name and "
        "the network, or download it elsewhere and give its folder"
    )


def check_index(name: str) -> None:
    """Refuse a repository of the hub by its model_index.json alone; nothing where there is no network.

    Raises:
        UserError: it has none, or that of an unknown family, or its licence was not accepted.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        index = Path(hf_hub_download(name, "model_index.json"))
    except LocalEntryNotFoundError as error:
        refuse_gated(name, error)
        return
    except EntryNotFoundError:
        raise UserError(
            f"{name} has no model_index.json: it is no diffusers pipeline, but a denoiser alone (put it into a folder "
            "of the pipeline that it belongs to, in place of its transformer/ or unet/) or weights of another program"
        ) from None
    except (OSError, ValueError) as error:
        refuse_gated(name, error)
        return
    find_family(index.parent, name)


def refuse_gated(name: str, error: Exception) -> None:
    """Say how to get at a repository if the error is that of one behind a licence."""
    if is_gated(error):
        raise UserError(
            f"{name} is only for those who accepted its licence: accept it on https://huggingface.co/{name}, "
            "then `hf auth login` on this machine, or give a folder of it"
        ) from None


def is_gated(error: BaseException | None) -> bool:
    """Whether the hub refused a repository for want of a token or of an accepted licence."""
    from huggingface_hub.errors import GatedRepoError

    while error is not None:
        if isinstance(error, GatedRepoError) or getattr(getattr(error, "response", None), "status_code", 0) == 403:
            return True
        error = error.__cause__ or error.__context__
    return False


def save(backbone: Any, folder: Path) -> None:
    """Save the backbone as a plain diffusers pipeline folder, atomically."""
    save_pipeline(backbone.pipeline(), folder, backbone.stored)

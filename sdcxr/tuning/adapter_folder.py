"""The adapter folder of a run: per part a safetensors file with what was trained of it, and adapter.json.

adapter.json names the method and its settings for each part, the version that wrote it, and hashes of the weights that
it was trained on. Read again, it is put into that base and no other.
"""

import copy
import dataclasses
import hashlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import sdcxr
from sdcxr.backbones.pipeline_files import hash_base
from sdcxr.config import NO_BASE, TrainConfig
from sdcxr.io.files import atomic, checksum, read_json, write_json
from sdcxr.runtime.errors import UserError
from sdcxr.tuning.base import TuningMethod, apply_method
from sdcxr.tuning.registry import choose_methods, method_of

RECORD = "adapter.json"
# Settings that change what the base is at inference: recorded where they are not the default.
OF_BASE = ("prediction_type", "rescale_betas_zero_snr")


def save_adapter(
    folder: Path,
    methods: dict[str, TuningMethod],
    tuned: dict[str, nn.Module],
    config: TrainConfig,
    base_sha256: dict[str, str],
) -> None:
    """Write the folder; nothing where the merged weights are all there is, as with `full`.

    Args:
        folder: where to.
        methods: by part.
        tuned: the injected parts.
        config: the settings of the run.
        base_sha256: hashes of what it was begun on (`Task.base_sha256`).
    """
    states = {name: methods[name].state(part) for name, part in tuned.items()}
    shutil.rmtree(folder, ignore_errors=True)  # of another method, where its run was not finished
    if not all(states.values()):
        if any(states.values()):
            full = ", ".join(name for name, state in states.items() if not state)
            print(f"no {folder.name}/: all of {full} was trained, so the pipeline is all there is")
        return
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Any] = {}
    for name, state in states.items():
        method = methods[name]
        files = {name: state}
        if method.file_per_tensor:
            files = {file_name(key): {key: value} for key, value in state.items()}
        for stem, tensors in files.items():
            with atomic(folder / f"{stem}.safetensors") as temporary:
                save_file({key: value.detach().cpu().contiguous() for key, value in tensors.items()}, temporary)
        options = {option: getattr(config, option) for option in method.options}
        parts[name] = {"method": method.name, "options": options, "files": sorted(files)}
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    changed = {name: getattr(config, name) for name in OF_BASE if getattr(config, name) != defaults[name]}
    about = {"sdcxr": sdcxr.__version__, "tune": config.tune, "seed": config.seed, "parts": parts, "settings": changed}
    write_json(folder / RECORD, about | {"base": config.base, "base_sha256": base_sha256})


def file_name(word: str) -> str:
    """A word as the name of a file: what may not be in one is left out."""
    return re.sub(r"[^\w-]+", "", word).strip("-_") or hashlib.sha256(word.encode()).hexdigest()[:8]


@dataclass(frozen=True)
class Adapter:
    """What an adapter folder holds."""

    folder: Path
    config: TrainConfig
    """Settings with which its methods are injected again."""
    states: dict[str, dict[str, Tensor]]
    """What was trained, by part."""
    base: str
    """What it was trained on, as it was named then."""
    base_sha256: dict[str, str]
    scale: float = 1.0

    @property
    def adds_words(self) -> bool:
        """Whether it holds words of textual inversion."""
        return self.config.parts == {"token"}

    def check_base(self, found: dict[str, str]) -> None:
        """Refuse another base than it was trained on.

        Args:
            found: `hash_base` of the base at hand.

        Raises:
            UserError: names what differs.
        """
        if differing := [name for name in found if found[name] != self.base_sha256.get(name)]:
            raise UserError(
                f"--adapter {self.folder}: was trained on another base, named {self.base} then (differs in "
                f"{', '.join(differing)}): give that as --model"
            )

    def inject_into(self, part: str, module: nn.Module) -> nn.Module:
        """`module`, a plain part, with what was trained of it put in.

        Raises:
            UserError: the files do not fit.
        """
        method = method_of(self.config, part)
        apply_method(method, module, self.config)
        try:
            method.load(module, self.states[part])
        except UserError as error:
            raise UserError(f"--adapter {self.folder}: is damaged, or of another version: {error}") from None
        return module

    def fold_into(self, part: str, module: nn.Module) -> nn.Module:
        """The plain part with what was trained of it folded in; `module` itself is changed.

        Raises:
            UserError: the files do not fit.
        """
        return method_of(self.config, part).merge(self.inject_into(part, module))


def locate_adapter(named: str) -> tuple[Path, float]:
    """Folder and scale of one `DIR` or `DIR:scale`, where DIR is an adapter folder or the run folder around it.

    Raises:
        UserError: there is none.
    """
    path, scale = named, 1.0
    before, colon, after = named.rpartition(":")
    if colon and not Path(named).expanduser().exists():
        path = before
        try:
            scale = float(after)
        except ValueError:
            raise UserError(f"--adapter {named}: no such folder, and {after!r} is no scale (DIR:0.5)") from None
    folder = Path(path).expanduser()
    folder = folder / "adapter" if (folder / "adapter" / RECORD).is_file() else folder
    if not (folder / RECORD).is_file():
        why = "no such folder" if not folder.is_dir() else f"has no {RECORD}: give the adapter/ of a run of train.py"
        raise UserError(f"--adapter {path}: {why}")
    if not -100 <= scale <= 100:
        raise UserError(f"--adapter {named}: the scale must be a number near 1")
    return folder, scale


def read_adapter(folder: Path, scale: float = 1.0) -> Adapter:
    """Read an adapter folder.

    Raises:
        UserError: it is damaged, or of a method that is not known here.
    """
    about = read_json(folder / RECORD)
    try:
        parts = about["parts"]
        options = {name: value for part in parts.values() for name, value in part["options"].items()}
        files = {name: [inside_name(stem) for stem in part["files"]] for name, part in parts.items()}
        named = {name: part for name, part in parts.items() if name in about["tune"].split("+")}  # not text_2
        method = {"method": ",".join(f"{name}={part['method']}" for name, part in named.items())}
        method = {} if about["tune"] == "token" else method
        known = {"tune": about["tune"], "seed": about["seed"]} | method | options | about["settings"]
        config = TrainConfig(**known)
        base, hashes = str(about["base"]), dict(about["base_sha256"])
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{folder / RECORD} is damaged ({type(error).__name__}: {error}): copy it again") from None
    choose_methods(config)
    states: dict[str, dict[str, Tensor]] = {}
    for name, stems in files.items():
        states[name] = {}
        for stem in stems:
            try:
                states[name] |= load_file(folder / f"{stem}.safetensors")
            except (SafetensorError, OSError) as error:
                raise UserError(
                    f"{folder}: {stem}.safetensors is missing or damaged ({error}): copy it again"
                ) from None
    return Adapter(folder, config, states, base, hashes, scale)


def inside_name(stem: str) -> str:
    """The name of a file without folders; ValueError for any other."""
    if Path(stem).name != stem:
        raise ValueError(f"file {stem!r}")
    return stem


def hash_adapter(folder: Path, scale: float) -> bytes:
    """Of all that an adapter folder and its scale change."""
    files = [folder / RECORD, *sorted(folder.glob("*.safetensors"))]
    return b"".join(bytes.fromhex(checksum(file)) for file in files) + repr(scale).encode()


@torch.no_grad()
def apply_adapters(backbone: Any, adapters: Sequence[Adapter]) -> None:
    """Fold adapters into the parts of a plain base in float32.

    Of several for one part, or with a scale, the differences of the weights are scaled and added.

    Raises:
        UserError: one is of another base, is damaged, or they cannot be used together; says which.
    """
    if other := next((adapter for adapter in adapters if adapter.config.parts & NO_BASE), None):
        raise UserError(f"--adapter {other.folder}: is of a {other.config.tune}, which generates nothing")
    base = hash_base(backbone)
    words = [adapter for adapter in adapters if adapter.adds_words]
    if len(words) > 1:
        raise UserError("--adapter: several with new words: train the words in one run, or use one of them")
    settings = {name: {getattr(adapter.config, name) for adapter in adapters} for name in OF_BASE}
    if differing := [name for name, values in settings.items() if len(values) > 1]:
        raise UserError(f"--adapter: these were trained with different --{differing[0]}, and do not go together")
    for adapter in adapters:
        if adapter.adds_words:
            backbone.adapt(adapter.config)
            adapter.check_base(hash_base(backbone))
        else:
            adapter.check_base(base)
    backbone.noise_process(adapters[0].config)  # the scheduler as it was in training
    for name in sorted({name for adapter in adapters for name in adapter.states}):
        own = [adapter for adapter in adapters if name in adapter.states]
        for adapter in [adapter for adapter in own if adapter.adds_words]:
            if adapter.scale != 1:
                raise UserError(f"--adapter {adapter.folder}: holds new words, which have no scale")
            backbone.parts[name] = adapter.fold_into(name, backbone.parts[name])
        if added := [adapter for adapter in own if not adapter.adds_words]:
            backbone.parts[name] = _sum(backbone.parts[name], name, added)
        backbone.parts[name].requires_grad_(False).eval()


def _sum(module: nn.Module, name: str, adapters: list[Adapter]) -> nn.Module:
    if len(adapters) == 1 and adapters[0].scale == 1:
        return adapters[0].fold_into(name, module)
    for adapter in adapters:
        method = method_of(adapter.config, name)
        if not method.additive:
            raise UserError(
                f"--adapter {adapter.folder}: --method {method.name} does not add to the weights: use it alone on the "
                f"{name}, without a scale"
            )
    total = {key: value.clone() for key, value in module.state_dict().items()}
    for adapter in adapters:
        folded = adapter.fold_into(name, copy.deepcopy(module)).state_dict()
        for key, before in module.state_dict().items():
            if before.is_floating_point():
                total[key] += adapter.scale * (folded[key] - before)
    module.load_state_dict(total)
    return module

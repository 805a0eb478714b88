"""Which parts of `python -m eval` apply to the folders and networks that are there, and why others do not."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.extractors.cache import describe
from eval.extractors.weights import checksum
from eval.inputs.folders import ImageFolder
from eval.metrics.presets import PRESETS, Preset
from eval.scores import read_scores
from eval.summary.steps import Part, Rows, Skipped, fingerprint_extractor, fingerprint_images, fingerprint_model
from sdcxr.io.files import user_cache
from sdcxr.runtime.errors import UserError

if TYPE_CHECKING:
    from eval.__main__ import EvalConfig

DEFAULT_EXTRACTORS = ("xrv-all",)
DEFAULT_PRESETS = ("fd-xrv-roentgen", "fid-clean", "fd-rad-dino", "cmmd")
DEFAULT_CLIP = "biomedclip"
WITHOUT_WEIGHTS = "pixels-32"


@dataclass(frozen=True)
class Inputs:
    """What all parts share."""

    config: "EvalConfig"
    real: ImageFolder
    synthetic: ImageFolder
    train: ImageFolder | None
    output: Path
    weights_dir: Path | None

    def part(
        self, name: str, evaluate: Callable[[], Rows], extractor: str | None = None, explicit: bool = True, **more: Any
    ) -> Part:
        """A part on both folders, with the keywords of `Part`; further ones are settings."""
        files = more.pop("files", ())
        about = (fingerprint_extractor(extractor, self.weights_dir, self.real),) if extractor else ()
        images = [fingerprint_images(folder) for folder in (self.real, self.synthetic)]
        return Part(name, evaluate, {"images": images, "seed": self.config.seed, **more}, explicit, files, about)


def plan(
    config: "EvalConfig", real: ImageFolder, synthetic: ImageFolder, train: ImageFolder | None, output: Path
) -> tuple[list[Part], list[Skipped]]:
    """The parts to take, in order, and those left out.

    Raises:
        UserError: something that was asked for by a flag is absent.
    """
    weights_dir = Path(config.weights_dir).expanduser() if config.weights_dir else None
    if weights_dir is not None and not weights_dir.is_dir():
        raise UserError(f"--weights_dir {weights_dir}: no such folder")
    inputs = Inputs(config, real, synthetic, train, output, weights_dir)
    skipped: list[Skipped] = []
    presets = _presets(inputs, skipped)
    clip = _clip(inputs, skipped)
    network = _network(inputs, presets, clip)
    parts = [_fidelity(inputs, preset, explicit) for preset, explicit in presets]
    for make in (_classifier, _utility, _generator, _text_encoder):
        parts += make(inputs, skipped)
    if clip:
        parts.append(_of_extractor(inputs, "alignment", clip, bool(config.clip)))
    else:
        skipped.append(Skipped("alignment", "it needs an image and a text tower: --clip RUN of train.py --tune clip"))
    searcher = clip or network
    if searcher:
        parts.append(_of_extractor(inputs, "retrieval", searcher, bool(config.clip)))
    else:
        skipped.append(Skipped("retrieval", "it needs a network: --clip, --classifier, or weights in --weights_dir"))
    parts.append(_of_extractor(inputs, "diversity", network, False))
    parts += _privacy(inputs, network or WITHOUT_WEIGHTS, skipped)
    return parts, skipped


def _presets(inputs: Inputs, skipped: list[Skipped]) -> list[tuple[Preset, bool]]:
    """What the distributions are compared by, and whether the user asked for it."""
    config = inputs.config
    extractors, names = comma_list(config.extractor), comma_list(config.preset)
    for name in names:
        if name not in PRESETS:
            raise UserError(f"--preset {name}: unknown (there are: {', '.join(map(str, PRESETS))})")
    if extractors or names:
        chosen = [Preset(name) for name in extractors] + [PRESETS[name] for name in names]
        for preset in chosen:
            fingerprint_extractor(preset.extractor, inputs.weights_dir, inputs.real)
        return [(preset, True) for preset in chosen]
    own = [(Preset(name), False) for name in (config.classifier, config.clip) if name and Path(name).is_dir()]
    there: list[tuple[Preset, bool]] = []
    absent: dict[str, list[str]] = {}
    for preset in [*map(Preset, DEFAULT_EXTRACTORS), *(PRESETS[name] for name in DEFAULT_PRESETS)]:
        try:
            fingerprint_extractor(preset.extractor, inputs.weights_dir, inputs.real)
            there.append((preset, False))
        except UserError as error:
            absent.setdefault(str(error), []).append(preset.name or preset.extractor)
    skipped += [Skipped(f"fidelity by {', '.join(names)}", reason) for reason, names in absent.items()]
    return there + own or [(Preset(WITHOUT_WEIGHTS), False)]


def _clip(inputs: Inputs, skipped: list[Skipped]) -> str | None:
    """The extractor for images and texts, where there is one."""
    if inputs.config.clip:
        _named(inputs, "--clip", inputs.config.clip)
        return inputs.config.clip
    name = DEFAULT_CLIP
    try:
        fingerprint_extractor(name, inputs.weights_dir, inputs.real)
    except UserError as error:
        skipped.append(Skipped(f"images and texts by {name}", str(error)))
        return None
    return name


def _named(inputs: Inputs, flag: str, name: str) -> dict[str, Any]:
    """Provenance of the extractor that a flag names.

    Raises:
        UserError: as `fingerprint_extractor`, with the name of the flag.
    """
    return fingerprint_extractor(name, inputs.weights_dir, inputs.real, flag)


def _network(inputs: Inputs, presets: list[tuple[Preset, bool]], clip: str | None) -> str | None:
    """The network that looks at images in diversity, privacy, and in retrieval without texts."""
    named = [preset.extractor for preset, _ in presets if preset.extractor != WITHOUT_WEIGHTS]
    return next(iter([*named, *filter(None, [clip])]), None)


def _fidelity(inputs: Inputs, preset: Preset, explicit: bool) -> Part:
    name, config = preset.name or preset.extractor, inputs.config
    evaluate = partial(_evaluate_fidelity, inputs, preset)
    about = {"resamples": config.resamples, "preset": preset.name}
    return inputs.part(f"fidelity by {name}", evaluate, preset.extractor, explicit, **about)


def _evaluate_fidelity(inputs: Inputs, preset: Preset) -> Rows:
    from eval import fid
    from eval.extractors.cache import extract

    sides = inputs.real, inputs.synthetic
    of_real, of_synthetic = (extract(side, preset.extractor, weights_dir=inputs.weights_dir) for side in sides)
    try:
        labels = bool(fid.common_labels(*sides))
    except UserError:
        labels = False
    # Published ways have no rows of labels; theirs would be of too few images for a distance between Gaussians.
    labels = labels and preset.name is None
    return fid.evaluate(
        *sides,
        of_real,
        of_synthetic,
        preset,
        resamples=inputs.config.resamples,
        per_label=labels,
        seed=inputs.config.seed,
    )


def _of_extractor(inputs: Inputs, name: str, extractor: str | None, explicit: bool) -> Part:
    def evaluate() -> Rows:
        from importlib import import_module

        module = import_module(f"eval.{name}")
        options = {"weights_dir": inputs.weights_dir, "seed": inputs.config.seed}
        rows: Rows = module.evaluate(inputs.real, inputs.synthetic, extractor, **options)
        return rows

    return inputs.part(name, evaluate, extractor, explicit)


def _classifier(inputs: Inputs, skipped: list[Skipped]) -> list[Part]:
    config = inputs.config
    if not config.classifier:
        skipped.append(
            Skipped(
                "classifier", "no --classifier: a run of train.py --tune classifier, or the name of a published one"
            )
        )
        return []

    from eval.extractors import classifiers

    judge = classifiers.find_classifier(config.classifier, inputs.weights_dir)
    labels = Path(config.labels).expanduser() if config.labels else None
    if labels is not None and not labels.is_file():
        raise UserError(f"--labels {labels}: no such file")

    def evaluate() -> Rows:
        from eval import classifier

        return classifier.evaluate(
            inputs.real,
            inputs.synthetic,
            str(config.classifier),
            weights_dir=inputs.weights_dir,
            labels=config.labels,
            findings=config.findings,
            seed=config.seed,
        )

    part = inputs.part("classifier", evaluate, labels=labels and checksum(labels), findings=config.findings)
    return [replace(part, provenance=(describe(judge.extractor, inputs.real, user_cache() / "features"),))]


def _utility(inputs: Inputs, skipped: list[Skipped]) -> list[Part]:
    if not inputs.config.utility:
        skipped.append(
            Skipped("utility", "no --utility: it trains classifiers, which is python -m eval.utility by itself")
        )
        return []
    path = Path(inputs.config.utility).expanduser()
    if not path.is_file():
        raise UserError(f"--utility {path}: no such file")
    return [inputs.part("utility", partial(read_scores, path), scores=checksum(path))]


def _generator(inputs: Inputs, skipped: list[Skipped]) -> list[Part]:
    generator = inputs.config.generator
    if not generator:
        skipped.append(Skipped("reports", "no --generator: an image-to-text model trained on real radiographs"))
        return []

    def evaluate() -> Rows:
        from eval import reports

        return reports.evaluate(
            inputs.real, inputs.synthetic, generator, weights_dir=inputs.weights_dir, seed=inputs.config.seed
        )

    return [inputs.part("reports", evaluate, model=fingerprint_model(generator))]


def _text_encoder(inputs: Inputs, skipped: list[Skipped]) -> list[Part]:
    model, data = inputs.config.model, inputs.real.folder.resolve().parent
    if not model:
        skipped.append(Skipped("text encoder", "no --model: the run that made the samples"))
        return []
    if not (data / "train" / "metadata.csv").is_file() or not (data / "test" / "metadata.csv").is_file():
        raise UserError(f"--model: its text encoder is measured on train and test of a dataset; {data} has not both")

    from eval import text_encoder

    base = text_encoder.base_of(model)
    tables = [checksum(data / split / "metadata.csv") for split in ("train", "test")]
    evaluate = partial(text_encoder.evaluate, base, model, data, seed=inputs.config.seed)
    return [inputs.part("text encoder", evaluate, model=fingerprint_model(model), base=base, tables=tables)]


def _privacy(inputs: Inputs, extractor: str, skipped: list[Skipped]) -> list[Part]:
    train, reid, nearest = inputs.train, inputs.config.reid, inputs.output / "nearest.csv"
    if train is None:
        skipped.append(Skipped("privacy", "no --train: the images that the model was trained on"))
        return []

    def evaluate() -> Rows:
        from eval import privacy

        options: dict[str, Any] = {"reid": reid, "weights_dir": inputs.weights_dir, "seed": inputs.config.seed}
        return privacy.evaluate(train, inputs.real, inputs.synthetic, extractor, nearest=nearest, **options)

    from eval.privacy import refuse_same

    refuse_same(train, inputs.real, inputs.synthetic)
    part = inputs.part("privacy", evaluate, extractor, True, files=(nearest,), train=fingerprint_images(train))
    return [replace(part, provenance=(*part.provenance, _named(inputs, "--reid", reid))) if reid else part]


def comma_list(names: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]

"""Registry of the evaluations that `python -m eval` runs, and the plan: which apply, and why others are left out."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from eval import alignment, classifier, diversity, fid, images, privacy, reports, retrieval, text_encoder
from eval.command import weights_folder
from eval.extractors import find_extractor
from eval.extractors.base import Extractor
from eval.extractors.cache import extract
from eval.extractors.classifiers import EvalClassifier, find_classifier
from eval.inputs.folders import ImageFolder
from eval.metrics.presets import PRESETS, Preset
from eval.scores import Result
from eval.summary.config import EvalConfig
from eval.summary.models import Model
from eval.summary.steps import EvalStep, Skipped, fingerprint_model
from sdcxr.io.files import checksum
from sdcxr.runtime.errors import UserError

DEFAULT_EXTRACTORS = ("xrv-all",)
DEFAULT_PRESETS = ("fd-xrv-roentgen", "fid-clean", "fd-rad-dino", "cmmd")
DEFAULT_IMAGE_TEXT_MODEL = "biomedclip"
WITHOUT_WEIGHTS = "pixels-32"
ROLE = "an image-to-text model trained on real radiographs"


@dataclass(frozen=True)
class Distance:
    """A preset with its extractor."""

    preset: Preset
    extractor: Extractor
    explicit: bool
    """Whether the user asked for it."""

    @property
    def name(self) -> str:
        return self.preset.name or self.preset.extractor


@dataclass(frozen=True)
class Inputs:
    """What all evaluations share: folders, and the networks, each resolved once."""

    config: EvalConfig
    real: ImageFolder
    synthetic: ImageFolder
    model: str
    """Name of the model that made the synthetic images."""
    train: ImageFolder | None
    weights_dir: Path | None
    classifier: EvalClassifier | None
    image_text_model: Extractor | None
    distances: list[Distance]
    skipped: list[Skipped]
    """Networks that are absent."""

    @property
    def network(self) -> Extractor | None:
        """The network for image features in diversity, privacy, and in retrieval without texts."""
        named = [one.extractor for one in self.distances if one.preset.extractor != WITHOUT_WEIGHTS]
        return named[0] if named else self.image_text_model

    def step(
        self,
        evaluate: Callable[..., Result],
        extractors: Sequence[Extractor | None] = (),
        *,
        variant: str | None = None,
        explicit: bool = True,
        table: str | None = None,
        **settings: Any,
    ) -> EvalStep:
        """A step on both folders; further keywords are settings that its rows depend on.

        `evaluate` takes the keyword seed; with a `table`, the name of one that it writes, also the keyword table, its
        path.
        """
        settings |= {"images": [self.real.fingerprint, self.synthetic.fingerprint], "seed": self.config.seed}
        found = tuple(extractor for extractor in extractors if extractor is not None)

        def run(*tables: Path) -> Result:
            return evaluate(seed=self.config.seed, **({"table": tables[0]} if table else {}))

        samples = str(self.synthetic.folder.resolve())
        return EvalStep(run, settings, found, variant, explicit, self.model, samples, table=table)

    def step_of_all(self, evaluate: Callable[[], Result], **settings: Any) -> EvalStep:
        """A step that does not depend on the samples, and so is one for all models."""
        return EvalStep(evaluate, settings)


@dataclass(frozen=True)
class Evaluation:
    """A kind of evaluation in the registry."""

    name: str
    version: int
    """VERSION of its module: rows that another version kept are computed anew."""
    plan: Callable[[Inputs], Iterator[EvalStep | Skipped]]
    """The steps that apply to the inputs, and what is left out with the reason.

    Raises `UserError` where a flag asks for something that is absent."""


def register(evaluation: Evaluation) -> None:
    """Add an evaluation; `python -m eval` runs it after the others, and the report shows its rows as a table."""
    EVALUATIONS.append(evaluation)


def plan_steps(inputs: Sequence[Inputs]) -> tuple[list[EvalStep], list[Skipped]]:
    """The steps of all evaluations in the order of the registry, each for all models, and what is left out.

    Args:
        inputs: of each model.

    Raises:
        UserError: something that a flag asks for is absent.
    """
    steps: list[EvalStep] = []
    skipped = list(inputs[0].skipped)
    for evaluation in EVALUATIONS:
        planned = zip_longest(*(evaluation.plan(one) for one in inputs))  # all models by one extractor, then by another
        for first, *others in planned:
            shared = isinstance(first, EvalStep) and first.model is None
            for one in [first] if shared else [first, *others]:
                if isinstance(one, Skipped):
                    skipped.append(one)
                elif one is not None:
                    steps.append(replace(one, name=evaluation.name, version=evaluation.version))
    return steps, skipped


def resolve_inputs(
    config: EvalConfig, real: ImageFolder, models: Sequence[Model], train: ImageFolder | None
) -> list[Inputs]:
    """Find all networks, without loading them; what each model's evaluations share.

    Raises:
        UserError: one that a flag names is absent.
    """
    weights_dir = weights_folder(config.weights_dir)
    skipped: list[Skipped] = []
    distances = _named_distances(config, weights_dir)
    eval_classifier = find_classifier(config.classifier, weights_dir) if config.classifier else None
    image_text_model = None
    if config.image_text_model:
        image_text_model = find_extractor(config.image_text_model, weights_dir, "--image_text_model")
    if not distances:
        distances = _default_distances(weights_dir, skipped)
        if config.classifier and Path(config.classifier).is_dir():
            distances.append(Distance(Preset(config.classifier), find_extractor(config.classifier), False))
        if image_text_model and Path(image_text_model.given_name).is_dir():
            distances.append(Distance(Preset(image_text_model.given_name), image_text_model, False))
        distances = distances or [Distance(Preset(WITHOUT_WEIGHTS), find_extractor(WITHOUT_WEIGHTS), False)]
    if not config.image_text_model:
        try:
            image_text_model = find_extractor(DEFAULT_IMAGE_TEXT_MODEL, weights_dir)
        except UserError as error:
            skipped.append(Skipped(f"images and texts by {DEFAULT_IMAGE_TEXT_MODEL}", str(error)))
    networks = weights_dir, eval_classifier, image_text_model, distances, skipped
    return [Inputs(config, real, model.images, model.name, train, *networks) for model in models]


def _named_distances(config: EvalConfig, weights_dir: Path | None) -> list[Distance]:
    """The extractors and presets that flags name."""
    presets = [Preset(name) for name in comma_list(config.extractor)]
    for name in comma_list(config.preset):
        if name not in PRESETS:
            raise UserError(f"--preset {name}: unknown (there are: {', '.join(map(str, PRESETS))})")
        presets.append(PRESETS[name])
    return [Distance(preset, find_extractor(preset.extractor, weights_dir), True) for preset in presets]


def _default_distances(weights_dir: Path | None, skipped: list[Skipped]) -> list[Distance]:
    """The default extractors and presets whose weights are found; the others are appended to `skipped`, by reason."""
    found = []
    absent: dict[str, list[str]] = {}
    for preset in [*map(Preset, DEFAULT_EXTRACTORS), *(PRESETS[name] for name in DEFAULT_PRESETS)]:
        try:
            found.append(Distance(preset, find_extractor(preset.extractor, weights_dir), False))
        except UserError as error:
            absent.setdefault(str(error), []).append(preset.name or preset.extractor)
    skipped += [Skipped(f"fidelity by {', '.join(names)}", reason) for reason, names in absent.items()]
    return found


def comma_list(names: str | None) -> list[str]:
    """Names separated by commas."""
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def _impossible(check: Callable[..., Any], *about: Any, explicit: bool) -> str | None:
    """Why an evaluation is left out, known before hours of extraction; raises where a flag asks for it."""
    try:
        check(*about)
    except UserError as error:
        if explicit:
            raise
        return str(error)
    return None


def _plan_images(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    extractor = find_extractor(images.EXTRACTOR)
    yield inputs.step(partial(images.evaluate, inputs.real, inputs.synthetic), [extractor], explicit=False)


def _plan_fidelity(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    draws = inputs.config.interval_draws
    for one in inputs.distances:
        about: dict[str, Any] = {"preset": one.preset.name, "interval_draws": draws}
        evaluate = partial(_evaluate_fidelity, inputs, one)
        yield inputs.step(evaluate, [one.extractor], variant=one.name, explicit=one.explicit, **about)


def _evaluate_fidelity(inputs: Inputs, distance: Distance, seed: int) -> Result:
    sides = inputs.real, inputs.synthetic
    real, synthetic = (extract(side, distance.extractor) for side in sides)
    try:
        labels = bool(fid.common_labels(*sides))
    except UserError:
        labels = False
    # Published presets have no rows of labels: too few images for a distance between Gaussians.
    labels = labels and distance.preset.name is None
    draws = inputs.config.interval_draws
    return fid.evaluate(*sides, real, synthetic, distance.preset, interval_draws=draws, per_label=labels, seed=seed)


def _plan_classifier(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    config, eval_classifier = inputs.config, inputs.classifier
    if eval_classifier is None:
        reason = "no --classifier: a run of train.py --tune classifier, or the name of a published one"
        yield Skipped("classifier", reason)
        return
    labels = Path(config.labels).expanduser() if config.labels else None
    if labels is not None and not labels.is_file():
        raise UserError(f"--labels {labels}: no such file")
    about: dict[str, Any] = {"labels": config.labels, "findings": config.findings}
    classifier.prepare(inputs.real, inputs.synthetic, eval_classifier, **about)  # fails before hours of extraction
    evaluate = partial(classifier.evaluate, inputs.real, inputs.synthetic, eval_classifier, **about)
    yield inputs.step(evaluate, [eval_classifier.extractor], **about | {"labels": labels and checksum(labels)})


def _plan_reports(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    name = inputs.config.report_model
    if not name:
        yield Skipped("reports", f"no --report_model: {ROLE}")
        return
    reports.pair_sides(inputs.real, inputs.synthetic)
    evaluate = partial(reports.evaluate, inputs.real, inputs.synthetic, name, weights_dir=inputs.weights_dir)
    yield inputs.step(evaluate, model=fingerprint_model(name))


def _is_comparable(model: str) -> bool:
    """Whether a model is an encoder, or of a family with one text encoder, which can be compared with another."""
    from sdcxr.backbones import registry
    from sdcxr.backbones.encoder_files import is_encoder

    if is_encoder(model):
        return True
    located = Path(registry.locate_pipeline(model))
    return not located.is_dir() or bool(registry.check(located).one_text_encoder)


def _plan_text_encoder(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    model, data = inputs.config.model, inputs.real.folder.resolve().parent
    if not model:
        yield Skipped("text encoder", "no --model: the run that made the samples")
        return
    tables = [data / split / "metadata.csv" for split in ("train", "test")]
    if not all(table.is_file() for table in tables):
        raise UserError(f"--model: its text encoder is measured on train and test of a dataset; {data} has not both")
    if not _is_comparable(model):
        yield Skipped("text encoder", "is measured of Stable Diffusion 1 and 2, which have one that can be exchanged")
        return
    base = text_encoder.base_of(model)
    if text_encoder.needs_code(model):
        yield Skipped("text encoder", "its encoder began with code of its own: eval.text_encoder --trust_remote_code")
        return
    about = {"model": fingerprint_model(model), "base": base, "tables": list(map(checksum, tables))}
    about["seed"] = inputs.config.seed
    yield inputs.step_of_all(partial(text_encoder.evaluate, base, model, data, seed=inputs.config.seed), **about)


def _plan_alignment(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    model, explicit = inputs.image_text_model, bool(inputs.config.image_text_model)
    if model is None:
        reason = "it needs an image and a text tower: --image_text_model RUN of train.py --tune clip"
        yield Skipped("alignment", reason)
        return
    if why := _impossible(alignment.check, inputs.synthetic, model, explicit=explicit):
        yield Skipped("alignment", why)
        return
    yield inputs.step(partial(alignment.evaluate, inputs.real, inputs.synthetic, model), [model], explicit=explicit)


def _plan_retrieval(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    model, explicit = inputs.image_text_model or inputs.network, bool(inputs.config.image_text_model)
    if model is None:
        reason = "it needs a network: --image_text_model, --classifier, or weights in --weights_dir"
        yield Skipped("retrieval", reason)
        return
    if why := _impossible(retrieval.prepare, inputs.real, inputs.synthetic, model, explicit=explicit):
        yield Skipped("retrieval", why)
        return
    yield inputs.step(partial(retrieval.evaluate, inputs.real, inputs.synthetic, model), [model], explicit=explicit)


def _plan_diversity(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    evaluate = partial(diversity.evaluate, inputs.real, inputs.synthetic, inputs.network)
    yield inputs.step(evaluate, [inputs.network], explicit=False)


def _plan_privacy(inputs: Inputs) -> Iterator[EvalStep | Skipped]:
    train, config = inputs.train, inputs.config
    if train is None:
        yield Skipped("privacy", "no --train: the images that the model was trained on")
        return
    privacy.refuse_same(train, inputs.real, inputs.synthetic)
    extractor = inputs.network or find_extractor(privacy.DEFAULT_EXTRACTOR)
    reid = find_extractor(config.reid, inputs.weights_dir, "--reid") if config.reid else None
    sides = train, inputs.real, inputs.synthetic

    def evaluate(seed: int, table: Path) -> Result:
        return privacy.evaluate(*sides, extractor, reid=reid, nearest=table, seed=seed)

    yield inputs.step(evaluate, [extractor, reid], table=privacy.NEAREST, train=train.fingerprint)


EVALUATIONS = [
    Evaluation("images", images.VERSION, _plan_images),
    Evaluation("fidelity", fid.VERSION, _plan_fidelity),
    Evaluation("classifier", classifier.VERSION, _plan_classifier),
    Evaluation("reports", reports.VERSION, _plan_reports),
    Evaluation("text encoder", text_encoder.VERSION, _plan_text_encoder),
    Evaluation("alignment", alignment.VERSION, _plan_alignment),
    Evaluation("retrieval", retrieval.VERSION, _plan_retrieval),
    Evaluation("diversity", diversity.VERSION, _plan_diversity),
    Evaluation("privacy", privacy.VERSION, _plan_privacy),
]
"""In the order of the report's rows."""

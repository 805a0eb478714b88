"""What the networks are that measure: of a run folder what it was trained on, of a published one its description."""

from pathlib import Path

from eval import extractors
from eval.inputs.folders import is_phantom
from eval.scores import Rows
from eval.summary.measures import short
from sdcxr.io.run_folder import read_config
from sdcxr.runtime.errors import UserError

STANDARD = {"FID Inception": "inception", "RAD-DINO": "rad-dino", "TorchXRayVision (XRV)": "xrv"}
"""Networks that papers measure distances with, and a part of their names here."""


def about_network(name: str) -> str:
    """What a network is, in words; empty where that is not known."""
    base = name.removesuffix(", logits")
    folder = Path(base).expanduser()
    config = next(
        (place / "config.yaml" for place in (folder, folder.parent) if (place / "config.yaml").is_file()), None
    )
    if folder.is_dir() and config is not None:
        return _of_run(config)
    base = base.partition("@")[0]
    for known, about in extractors.names().items():
        start = known.partition("…")[0]
        if base == known or (start != known and start and base.startswith(start)):
            return about.partition("; @")[0]
    return ""


def _of_run(config: Path) -> str:
    """What train.py made, of which data and at which size."""
    try:
        settings = read_config(config)
    except (OSError, UserError):
        return ""
    parts = [f"trained with train.py --tune {settings.get('tune')} from {settings.get('base')}"]
    data = settings.get("data")
    if isinstance(data, str):
        try:
            phantom = is_phantom(Path(data))
        except UserError:
            phantom = False
        parts[0] += f" on {data}" + (", phantoms and not radiographs" if phantom else "")
    if settings.get("resolution"):
        parts.append(f"input of {settings['resolution']} px")
    return "; ".join(parts)


def measured_with(rows: Rows) -> list[str]:
    """Sentences on the networks of the distances, and which standard ones were not used."""
    named = list(dict.fromkeys(str(row["extractor"]) for row in rows if row["step"] == "fidelity"))
    if not named:
        return []
    about = {name: about_network(name) for name in named}
    listed = "; ".join(f"{short(name)} ({text})" if text else short(name) for name, text in about.items())
    used = " ".join(named).lower()
    absent = [name for name, part in STANDARD.items() if part not in used]
    lines = [f"The networks behind the distances: {listed}."]
    if absent:
        lines.append(
            f"Not measured with the standard networks {', '.join(absent)}: distances here do not compare with theirs."
        )
    return lines

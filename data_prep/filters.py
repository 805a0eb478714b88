"""Inclusion filters and the No Finding cap: pure functions of tables, independent of the order of rows.

A filter returns for every row the reason to drop it, or an empty string to keep it; see `data_prep.cohort.Cohort`.
"""

from collections.abc import Iterable

import pandas as pd

from sdcxr.io.files import uniform

# ViewCodeSequence_CodeMeaning of MIMIC-CXR-JPG to its ViewPosition.
_VIEW_OF_CODE = {
    "postero-anterior": "PA",
    "antero-posterior": "AP",
    "lateral": "LATERAL",
    "left lateral": "LL",
    "right lateral": "RL",
}
_VIEW_IN_PROCEDURE = {"PA": r"\bPA\b", "AP": r"\bAP\b", "LATERAL": r"\bLAT(?:ERAL)?\b"}


def reason_where(dropped: pd.Series, reason: str) -> pd.Series:
    """`reason` where `dropped`, "" elsewhere."""
    return dropped.astype(bool).map({True: reason, False: ""}).astype(object)


def length_reasons(text: pd.Series, min_chars: int, max_chars: int) -> pd.Series:
    """Drop prompts shorter than `min_chars` or longer than `max_chars` characters (inclusive limits)."""
    length = text.str.len()
    return reason_where(length < min_chars, "impression too short").mask(length > max_chars, "impression too long")


def repaired_views(metadata: pd.DataFrame) -> pd.Series:
    """ViewPosition in capitals, "" where unknown; missing ones are filled from the view code, then from the procedure.

    Args:
        metadata: has ViewPosition and may have ViewCodeSequence_CodeMeaning and PerformedProcedureStepDescription,
            "" where missing. The procedure is used only if it names a single view, not "CHEST (PA AND LAT)".
    """
    view = metadata["ViewPosition"].str.strip().str.upper()
    if "ViewCodeSequence_CodeMeaning" in metadata:
        code = metadata["ViewCodeSequence_CodeMeaning"].str.strip().str.lower()
        view = view.where(view != "", code.map(_VIEW_OF_CODE).fillna(""))
    if "PerformedProcedureStepDescription" in metadata:
        procedure = metadata["PerformedProcedureStepDescription"].str.upper()
        named = pd.DataFrame({name: procedure.str.contains(rule) for name, rule in _VIEW_IN_PROCEDURE.items()})
        single = named.idxmax(axis=1).where(named.sum(axis=1) == 1, "")
        view = view.where(view != "", single)
    return view


def view_reasons(view: pd.Series, views: Iterable[str]) -> pd.Series:
    """Drop images whose view is unknown or not one of `views`."""
    return reason_where(~view.isin(list(views)), "view not wanted").mask(view == "", "view unknown")


def hash_order(ids: pd.Series, seed: int) -> pd.Series:
    """A pseudorandom number in [0, 1) for each id, which depends on id and seed only."""
    return ids.map({value: uniform(f"{seed}:{value}") for value in ids.unique()}).astype(float)


def cap_reasons(rows: pd.DataFrame, max_no_finding: int, seed: int) -> pd.Series:
    """Keep at most `max_no_finding` training images with CheXpert's label No Finding, lowest `hash_order` first.

    A higher cap therefore keeps everything that a lower one keeps.
    """
    normal = rows[(rows["split"] == "train") & (rows["No Finding"] == 1)]
    return limit_reasons(normal, max_no_finding, seed, "over the No Finding cap").reindex(rows.index, fill_value="")


def limit_reasons(rows: pd.DataFrame, limit: int, seed: int, reason: str = "over the limit") -> pd.Series:
    """Keep `limit` images, lowest `hash_order` first: a small sample for a trial."""
    ranked = hash_order(rows["dicom_id"], seed).sort_values(kind="stable")
    reasons = pd.Series("", index=rows.index, dtype=object)
    reasons[ranked.index[limit:]] = reason
    return reasons

"""One ablation at several settings in a run: the label that tells them apart."""

import pandas as pd

from layerroles.errors import InputError


def labels(frame: pd.DataFrame) -> "pd.Series[str]":
    """What each row's condition does, as in `clip[length=0.25]`: its name without site and `at`.

    Nothing where the condition was given another name.
    """
    known = frame[["condition", "site", "at"]].drop_duplicates()
    found = {name: _label(str(name), str(site), str(at)) for name, site, at in known.to_numpy()}
    return frame["condition"].map(found)


def _label(name: str, site: str, at: str) -> str:
    where = site.replace("+", ",")
    end = f" {where}" if at == "all" else f" {where} {at}"
    return name.removesuffix(end) if site and name.endswith(end) else ""


def twins(effects: pd.DataFrame) -> pd.DataFrame:
    """The effects that are not alone at their place."""
    place = ["layer", "head", "at", "task", "protocol"]
    return effects[effects.duplicated(place, keep=False)]


def refuse_twins(effects: pd.DataFrame) -> None:
    """Refuse effects of which two are of one place: a layer has one harm.

    Raises:
        InputError: one ablation with two settings, say.
    """
    found = twins(effects)
    if found.empty:
        return
    first = found.iloc[0]
    alike = found[(found["site"] == first["site"]) & (found["at"] == first["at"])]
    which = f"layer {first['layer']}" if pd.isna(first["head"]) else f"head {first['site']}"
    one = next(filter(None, labels(alike)), None)
    how = (
        f'choose one setting, as in result["{one}"]' if one else "sweep them into separate results"
    )
    raise InputError(
        f"{which} is ablated more than once alike "
        f"({', '.join(dict.fromkeys(alike['condition']))}): {how}"
    )

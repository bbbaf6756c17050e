"""Licences: what a base's files say of its own, and which one may stand on an edited copy."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import UsageError

# The identifiers that the Hub knows; any other licence goes by `other`, a name and a link.
_IDENTIFIERS = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
    lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense
    zlib pddl lgpl-lr deepfloyd-if-license llama2 gemma"""
KNOWN = frozenset(_IDENTIFIERS.split())
NOTHING_ASKED = ("cc0-1.0", "unlicense", "wtfpl", "pddl")
# They ask that notices are kept, and let a copy come under further terms.
NOTICES_ASKED = (
    *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "bsd-3-clause-clear", "isc", "zlib", "ncsa"),
    *("postgresql", "afl-3.0", "ecl-2.0", "bsl-1.0", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
    *("odc-by", "cdla-permissive-1.0", "cdla-permissive-2.0"),
)
NO_TEXT = "ships no licence text"  # stands in a LICENSE that is ours, as the base has none
LICENCE_FILES, OTHER_TERMS = ("license", "licence"), ("notice", "use_policy", "use-policy", "acceptable_use")
PATTERNS = [f"{start}*" for name in (*LICENCE_FILES, *OTHER_TERMS) for start in (name, name.upper(), name.title())]


@dataclass(frozen=True)
class Licence:
    """name: as the base declares it, "other" where it does not. text: of its licence, or a line that there is none.

    terms: further files that bind whoever uses it, by name: notices and policies of use.
    """

    name: str
    text: str
    terms: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Licence":
        """Of a base's folder: its card's front matter, and its files."""
        meta = _front(folder / "README.md")
        name = meta.get("license")
        if name in (None, "other", "unknown") and isinstance(meta.get("license_name"), str):
            name = meta["license_name"]
        name = name if isinstance(name, str) and name else "other"
        files = sorted(f for f in folder.iterdir() if f.is_file()) if folder.is_dir() else []
        texts = [f for f in files if f.name.lower().startswith(LICENCE_FILES)]
        terms = {f.name: _read(f) for f in files if f.name.lower().startswith(OTHER_TERMS)}
        declared = f"The base model declares the licence {name!r} and {NO_TEXT}; its terms apply.\n"
        return cls(name, _read(texts[0]) if texts else declared, terms)


def is_declared(name: str, text: str) -> bool:
    """Whether a base has a licence at all: one by name, or a text of its own."""
    return name not in ("", "other", "unknown") or (bool(text.strip()) and NO_TEXT not in text)


def check_licence(wanted: str, base: str) -> None:
    """Raise UsageError unless a copy of a base under the licence ``base`` may be published under ``wanted``.

    Where the base's asks for nothing or for notices alone, further terms may be added; of a non-commercial one without
    share-alike, others that are non-commercial. Every other licence stays: use restrictions and copyleft bind copies.
    """
    if wanted == base:
        return
    if wanted not in KNOWN:
        raise UsageError(
            f"no licence {wanted!r} is known to the Hub: leave --license out, and the base's stands: {base}"
        )
    allowed = (
        base in NOTHING_ASKED
        or (base in NOTICES_ASKED and wanted not in NOTHING_ASKED)
        or (base.startswith("cc-by-nc-") and base[9:10].isdigit() and wanted.startswith("cc-by-nc-"))
    )
    if not allowed:
        raise UsageError(
            f"--license {wanted} is not what the base's licence {base} lets a copy have: leave it out, and {base} stands"
        )


def _front(card: Path) -> dict[str, Any]:
    if not card.is_file():
        return {}
    import yaml

    parts = card.read_text(encoding="utf-8", errors="replace").split("---")
    try:
        meta = yaml.safe_load(parts[1]) if len(parts) > 2 else None
    except yaml.YAMLError:
        meta = None
    return meta if isinstance(meta, dict) else {}


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")

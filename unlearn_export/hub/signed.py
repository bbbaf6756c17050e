"""The signatures that a push sends along, or finds there."""

import tempfile
from pathlib import Path

from ..artifact import CARD, CARD_SIGNATURE, SIGNATURE, SIGNATURES, Artifact
from ..card_text import generated
from ..errors import UsageError
from ..signature import SignatureError, check_card, check_files, public_key, signed_card, signed_files
from .remote import Content, Contents, Remote, Tree


def signatures(artifact: Artifact, card: str, key: Path) -> Contents:
    """New ones of what is sent."""
    return {SIGNATURE: Content(signed_files(artifact, key)), CARD_SIGNATURE: Content(signed_card(card, key))}


def held(artifact: Artifact, card: str, key: Path, remote: Remote, tree: Tree, head: str) -> Contents:
    """The signatures there that are by this key and hold of what is sent: each signing gives other bytes."""
    found: Contents = {}
    with tempfile.TemporaryDirectory() as folder:
        public, file = Path(folder) / "key.pub", Path(folder) / "there.sig"
        public.write_bytes(public_key(key))
        for name in (name for name in SIGNATURES if name in tree):
            file.write_bytes(remote.read(name, head))
            try:
                check_card(card, file, public) if name == CARD_SIGNATURE else check_files(artifact, file, public)
            except SignatureError:
                continue
            found[name] = Content(file.read_bytes())
    return found


def check_signed_card(artifact: Artifact, card: str, repo_id: str) -> None:
    """Raise UsageError where another generated part would be sent than was signed."""
    here = artifact.path / CARD
    if not here.is_file() or generated(here.read_text(encoding="utf-8")) != generated(card):
        raise UsageError(
            f"the card was signed otherwise than it would be sent: `unlearn-export card {artifact.path} --repo {repo_id}` "
            "and sign again, or push with --sign-key"
        )

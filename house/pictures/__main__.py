"""Make the pictures of the documentation anew: `python -m house.pictures`, about half a minute, no server needed."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from house.pictures import scene, slack, terminal

ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "docs" / "pictures"


def main() -> int:
    """Play the quick start and draw what people see."""
    with tempfile.TemporaryDirectory() as folder:
        shown = scene.play(scene.quick_start_of(ROOT / "README.md"), Path(folder))
    PICTURES.mkdir(exist_ok=True)
    (PICTURES / "slack_message.svg").write_text(slack.picture(shown.blocks, shown.channel), "utf-8")
    (PICTURES / "dlq_show.svg").write_text(terminal.picture(shown.command, shown.output), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

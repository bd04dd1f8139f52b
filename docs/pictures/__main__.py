"""Draws the pictures of the documentation: `python docs/pictures`. Nobody draws in the files by hand."""

from __future__ import annotations

from pathlib import Path

import letter
import slack_message
import way

PICTURES = {"slack_message.svg": slack_message.drawn, "dlq_show.svg": letter.drawn, "way.svg": way.drawn}

if __name__ == "__main__":
    for name, draw in PICTURES.items():
        (Path(__file__).parent / name).write_text(draw(), "utf-8")

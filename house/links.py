"""Every link inside the built documentation leads somewhere: to a file that is there, and to an anchor in it.

`python house/links.py FOLDER` prints one line for each link that does not and exits 1 if there is any. Links to other
sites are not followed: a build must not depend on them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from posixpath import normpath
from urllib.parse import unquote, urlsplit

__all__ = ["Page", "faults_in", "main"]

LINKING = {"href", "src", "data"}


class Page(HTMLParser):
    """The links and the anchors of one page.

    Args:
        source: the page's HTML.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.links: list[tuple[int, str]] = []
        self.anchors: set[str] = set()
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what the tag links to, and what leads to the tag."""
        for name, value in attrs:
            if name in LINKING and value is not None:
                self.links.append((self.getpos()[0], value))
            elif (name == "id" or (tag == "a" and name == "name")) and value:
                self.anchors.add(value)


def faults_in(pages: Mapping[str, Page], files: set[str]) -> Iterator[str]:
    """The links of these pages that lead nowhere, as `page:line: what`.

    Args:
        pages: by their path below the site's folder.
        files: the path of every file of the site, pages included.
    """
    for name, page in pages.items():
        for line, link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = normpath(str(PurePosixPath(name).parent / unquote(parts.path))) if parts.path else name
            if target not in files:
                yield f"{name}:{line}: {link} leads to no file"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name}:{line}: {link} leads to no anchor of {target}"


def main(arguments: Sequence[str]) -> int:
    """Check the site in the folder that is named; returns the exit code."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("name the folder of the built site")
        return 2
    site = Path(arguments[0])
    files = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    pages = {name: Page((site / name).read_text("utf-8")) for name in sorted(files) if name.endswith(".html")}
    faults = list(faults_in(pages, files))
    for fault in faults:
        print(fault)
    print(f"{sum(len(page.links) for page in pages.values())} links on {len(pages)} pages, {len(faults)} lead nowhere")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

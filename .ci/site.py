"""Look over the built documentation: ``python .ci/site.py build/html``.

Whatever a page links to or loads is there, headings and names included; nothing comes from
elsewhere; pages can be searched, and code copied; llms.txt lists the pages.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """What a page has: anchors, links, what it loads, blocks of code."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.has_code = False
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down what a tag adds."""
        given = {name: value for name, value in attrs if value}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag == "link" and given.get("rel") in {"stylesheet", "icon", "preload"}:
            self.loaded.append(given["href"])
        if tag in {"script", "img"} and "src" in given:
            self.loaded.append(given["src"])
        self.has_code |= tag == "div" and "highlight" in given.get("class", "").split()


def complaints(site: Path) -> list[str]:
    """Return what is wrong, in a line each."""
    pages = {path.resolve(): Page(path) for path in sorted(site.rglob("*.html"))}
    found: list[str] = []
    for path, page in pages.items():
        name = path.relative_to(site)
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                if link in page.loaded:
                    found.append(f"{name} loads {link}, which needs a network")
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.is_file():
                found.append(f"{name} leads to {link}, which is not there")
            elif parts.fragment and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name} leads to {link}, and nothing there is called so")
        if page.has_code and not any("copybutton.js" in script for script in page.loaded):
            found.append(f"{name} has code, and no button that copies it")
    index = (site / "searchindex.js").read_text("utf-8")
    missing = [word for word in ("Scheduler", "simulate", "RedisBridge") if word not in index]
    found += [f"{word} cannot be searched for" for word in missing]
    listed = re.findall(r"\]\(([^):]+)\)", (site / "llms.txt").read_text("utf-8"))
    found += [
        f"llms.txt lists {one}, which is not there" for one in listed if not (site / one).is_file()
    ]
    codes = sum(page.has_code for page in pages.values())
    print(f"{len(pages)} pages, {codes} with code, {len(listed)} in llms.txt")
    if codes < 10 or len(listed) < 15:
        found.append("that is less than there was")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(complaints(Path(sys.argv[1]).resolve())) or None)

"""Look over what was built to be published: ``python .ci/package.py dist``.

The wheel has the two packages and their types, and nothing else; the sdist what its tests need.
The README, as an index shows it, has no link that leads nowhere from there.
"""

from __future__ import annotations

import sys
import tarfile
from email import message_from_string
from email.policy import default
from pathlib import Path
from zipfile import ZipFile

from markdown_it import MarkdownIt

#: What people look for, and must find.
WORDS = {"asyncio", "trio", "graceful shutdown", "fan-out", "backpressure", "publish/subscribe"} | {
    "supervision tree"
}


def complaints(folder: Path) -> list[str]:
    """Return what is wrong, in a line each."""
    (wheel,) = folder.glob("*.whl")
    (sdist,) = folder.glob("*.tar.gz")
    found: list[str] = []
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        (place,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(place).decode("utf-8"), policy=default)
    found += [f"the wheel has no {one}" for one in {"orchestrio/py.typed"} - names]
    found += [
        f"the wheel has {name}"
        for name in sorted(names)
        if not name.startswith(("orchestrio/", "_orchestrio_pytest/"))
        or not name.endswith((".py", "/py.typed"))
    ]
    with tarfile.open(sdist) as archive_of_sources:
        there = {name.partition("/")[2] for name in archive_of_sources.getnames()}
    needed = ("tests/conftest.py", "docs/conf.py", "stubs/orchestrio/__init__.pyi", "README.md")
    found += [f"the sdist has no {name}" for name in needed if name not in there]
    keywords = set(str(metadata["Keywords"]).split(","))
    found += [f"the keywords have no {word!r}" for word in sorted(WORDS - keywords)]
    urls = {str(url).partition(",")[0] for url in metadata.get_all("Project-URL", [])}
    missing = {"Documentation", "Source", "Changelog", "Issues"} - urls
    found += [f"there is no URL called {name}" for name in sorted(missing)]
    tokens = MarkdownIt().enable("table").parse(str(metadata.get_payload()))
    inline = [child for token in tokens for child in token.children or ()]
    links = [str(one.attrs.get("href") or one.attrs.get("src")) for one in inline if one.attrs]
    found += [
        f"the README leads to {link}, which an index does not have"
        for link in links
        if not link.startswith(("https://", "#"))
    ]
    print(f"{len(names)} files in the wheel, {len(there)} in the sdist, {len(links)} links")
    return found


if __name__ == "__main__":
    sys.exit("\n".join(complaints(Path(sys.argv[1]))) or None)
